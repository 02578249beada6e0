//! How a cluster's streams are to be, and what of a stream that is there differs.

use std::collections::BTreeMap;

use banter_cluster::engine::Partition;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::names::Names;

/// The layout of the streams; a program that knows another one must not touch them.
const FORMAT: &str = "1";
const FORMAT_KEY: &str = "banter.format";
const CLUSTER_ID_KEY: &str = "banter.cluster_id";
const PARTITIONS_KEY: &str = "banter.partitions";
const BLANK_EPOCH_KEY: &str = "banter.blank_epoch";
/// Partitions of a cluster at most.
pub(crate) const PARTITIONS_MAX: u16 = 256;
/// The least that a server takes, 100 ms: nothing here has a `Nats-Msg-Id`, and what is remembered of them costs memory.
const DUPLICATE_WINDOW_NANOSECONDS: u64 = 100_000_000;

/// What `banter cluster init` chose once for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founding {
    /// Which cluster this is; nonce of all its blocks.
    pub cluster_id: u64,
    /// Into how many partitions the rooms are shared out.
    pub partitions: u16,
    /// The epoch of rooms that never had a message.
    pub blank_epoch: u64,
}

/// How large, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Servers that keep each stream.
    pub replicas: u8,
    /// Bytes of a partition's stream at most, on each server.
    pub stream_bytes_max: u64,
    /// Bytes of all objects at most, on each server.
    pub index_bytes_max: u64,
}

/// A stream's configuration: the keys that matter here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamConfig {
    /// Its name.
    pub name: String,
    /// Where messages for it are put.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// By what messages leave it: `limits`.
    pub retention: String,
    /// Where it is kept: `file`.
    pub storage: String,
    /// By how many servers.
    pub num_replicas: u8,
    /// What goes when it is full: `new`, so that nothing is ever lost by it.
    pub discard: String,
    /// Bytes at most.
    pub max_bytes: i64,
    /// Messages at most; -1: as many as fit.
    pub max_msgs: i64,
    /// Messages of one subject at most; -1: as many as fit.
    pub max_msgs_per_subject: i64,
    /// Bytes of a message at most; -1: as the server says.
    pub max_msg_size: i64,
    /// How old a message may get; 0: as old as it likes.
    pub max_age: u64,
    /// For how long a message's id is remembered.
    pub duplicate_window: u64,
    /// Whether every server that keeps it may be read from.
    #[serde(default)]
    pub allow_direct: bool,
    /// Whether single messages are safe from being deleted.
    #[serde(default)]
    pub deny_delete: bool,
    /// Whether it is safe from being purged.
    #[serde(default)]
    pub deny_purge: bool,
    /// Whether it takes no more messages.
    #[serde(default)]
    pub sealed: bool,
    /// What it is for.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// Something about a stream that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key of its configuration.
    pub key: String,
    /// What it is.
    pub found: String,
    /// What it should be.
    pub wanted: String,
}

impl StreamConfig {
    /// A partition's stream.
    pub fn partition(names: &Names, partition: Partition, founding: Founding, shape: Shape) -> Self {
        let name = names.stream(partition);
        StreamConfig::new(name, names.log(partition), -1, shape.stream_bytes_max, founding, shape.replicas)
    }

    /// The stream of the objects: the newest of each subject.
    pub fn index(names: &Names, founding: Founding, shape: Shape) -> Self {
        let name = names.index_stream();
        StreamConfig::new(name, names.all_objects(), 1, shape.index_bytes_max, founding, shape.replicas)
    }

    fn new(
        name: String,
        subject: String,
        max_msgs_per_subject: i64,
        bytes_max: u64,
        founding: Founding,
        replicas: u8,
    ) -> Self {
        StreamConfig {
            name,
            subjects: vec![subject],
            retention: "limits".to_owned(),
            storage: "file".to_owned(),
            num_replicas: replicas,
            discard: "new".to_owned(),
            max_bytes: i64::try_from(bytes_max).unwrap_or(i64::MAX),
            max_msgs: -1,
            max_msgs_per_subject,
            max_msg_size: -1,
            max_age: 0,
            duplicate_window: DUPLICATE_WINDOW_NANOSECONDS,
            allow_direct: true,
            deny_delete: true,
            deny_purge: false,
            sealed: false,
            metadata: founding.metadata(),
        }
    }

    /// What of this one is not as in that one. The servers add metadata of their own, which is theirs.
    pub fn differences(&self, wanted: &StreamConfig) -> Vec<Difference> {
        let (Ok(Value::Object(found)), Ok(Value::Object(wanted))) =
            (serde_json::to_value(self), serde_json::to_value(wanted))
        else {
            return Vec::new();
        };
        let mut differences = Vec::new();
        for (key, wanted) in &wanted {
            let found = found.get(key).unwrap_or(&Value::Null);
            if let Value::Object(entries) = wanted {
                for (entry, wanted) in entries {
                    compare(
                        &format!("{key}.{entry}"),
                        found.get(entry).unwrap_or(&Value::Null),
                        wanted,
                        &mut differences,
                    );
                }
            } else {
                compare(key, found, wanted, &mut differences);
            }
        }
        differences
    }
}

fn compare(key: &str, found: &Value, wanted: &Value, differences: &mut Vec<Difference>) {
    if found != wanted {
        let (found, wanted) = (found.to_string(), wanted.to_string());
        differences.push(Difference { key: key.to_owned(), found, wanted });
    }
}

impl Founding {
    fn metadata(self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (FORMAT_KEY.to_owned(), FORMAT.to_owned()),
            (CLUSTER_ID_KEY.to_owned(), self.cluster_id.to_string()),
            (PARTITIONS_KEY.to_owned(), self.partitions.to_string()),
            (BLANK_EPOCH_KEY.to_owned(), self.blank_epoch.to_string()),
        ])
    }

    /// What a stream's metadata say.
    ///
    /// # Errors
    /// The key that is missing, or says what no such program as this one has written.
    pub(crate) fn of(metadata: &BTreeMap<String, String>) -> Result<Self, Difference> {
        let wrong = |key: &str, wanted: &str| {
            let found = metadata.get(key).map_or_else(|| "nothing".to_owned(), |found| format!("{found:?}"));
            Difference { key: format!("metadata.{key}"), found, wanted: wanted.to_owned() }
        };
        if metadata.get(FORMAT_KEY).map(String::as_str) != Some(FORMAT) {
            return Err(wrong(FORMAT_KEY, FORMAT));
        }
        let number = |key: &str| {
            metadata.get(key).and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| wrong(key, "a number"))
        };
        let partitions = u16::try_from(number(PARTITIONS_KEY)?).ok().filter(|count| is_partition_count(*count));
        Ok(Founding {
            cluster_id: number(CLUSTER_ID_KEY)?,
            partitions: partitions.ok_or_else(|| wrong(PARTITIONS_KEY, "a power of two from 16 to 256"))?,
            blank_epoch: number(BLANK_EPOCH_KEY)?,
        })
    }
}

/// Whether rooms can be shared out to so many partitions.
pub(crate) fn is_partition_count(count: u16) -> bool {
    count.is_power_of_two() && (16..=PARTITIONS_MAX).contains(&count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterName;

    fn config(bytes_max: u64) -> StreamConfig {
        let founding = Founding { cluster_id: 1, partitions: 16, blank_epoch: 2 };
        let shape = Shape { replicas: 3, stream_bytes_max: bytes_max, index_bytes_max: 1 };
        StreamConfig::partition(&Names::new(ClusterName::new("c").unwrap()), Partition(1), founding, shape)
    }

    #[test]
    fn each_key_that_differs_is_named() {
        let wanted = config(1_000);
        let mut found = config(2_000);
        found.metadata.insert("banter.cluster_id".to_owned(), "9".to_owned());
        found.metadata.insert("_nats.ver".to_owned(), "2.15.1".to_owned());
        found.deny_delete = false;
        let keys: Vec<_> = found.differences(&wanted).into_iter().map(|difference| difference.key).collect();
        assert_eq!(keys, ["deny_delete", "max_bytes", "metadata.banter.cluster_id"]);
        assert_eq!(wanted.differences(&wanted), []);
    }

    #[test]
    fn what_was_founded_is_read_back_or_refused() {
        let mut metadata = config(1).metadata;
        assert_eq!(Founding::of(&metadata), Ok(Founding { cluster_id: 1, partitions: 16, blank_epoch: 2 }));
        for (key, value) in [(PARTITIONS_KEY, "17"), (BLANK_EPOCH_KEY, "-1"), (CLUSTER_ID_KEY, ""), (FORMAT_KEY, "2")] {
            let kept = metadata.insert(key.to_owned(), value.to_owned()).unwrap();
            assert_eq!(Founding::of(&metadata).unwrap_err().key, format!("metadata.{key}"));
            metadata.insert(key.to_owned(), kept);
        }
        assert_eq!(Founding::of(&BTreeMap::new()).unwrap_err().found, "nothing");
    }
}
