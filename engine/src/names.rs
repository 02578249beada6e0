//! The names of a cluster's streams and subjects.
//!
//! ```text
//! BANTER_<cluster>_007     banter.<cluster>.log.007
//! BANTER_<cluster>_index   banter.<cluster>.index.007.index.<segment>.<piece>
//!                          banter.<cluster>.index.007.checkpoint.<sequence>.<piece>
//!                          banter.<cluster>.index.007.newest.<piece>
//! (no stream)              banter.<cluster>.beat
//! ```

use banter_cluster::engine::{ObjectKind, ObjectName, Partition};

use crate::config::ClusterName;

/// The names of one cluster.
#[derive(Clone, Debug)]
pub struct Names {
    cluster: ClusterName,
}

impl Names {
    /// Of that cluster.
    pub fn new(cluster: ClusterName) -> Self {
        Names { cluster }
    }

    /// The cluster's.
    pub fn cluster(&self) -> &str {
        self.cluster.as_str()
    }

    /// A partition's stream.
    pub fn stream(&self, partition: Partition) -> String {
        format!("BANTER_{}_{:03}", self.cluster(), partition.0)
    }

    /// Where a partition's messages are put.
    pub fn log(&self, partition: Partition) -> String {
        format!("banter.{}.log.{:03}", self.cluster(), partition.0)
    }

    /// The stream of the objects.
    pub fn index_stream(&self) -> String {
        format!("BANTER_{}_index", self.cluster())
    }

    /// Where all objects are put.
    pub fn all_objects(&self) -> String {
        format!("banter.{}.index.>", self.cluster())
    }

    /// Where an object is put.
    pub fn object(&self, name: ObjectName) -> String {
        format!("{}.{}", self.object_of(name.partition, name.kind), name.piece)
    }

    /// Where all pieces of an object are put.
    pub fn all_pieces(&self, partition: Partition, kind: ObjectKind) -> String {
        format!("{}.*", self.object_of(partition, kind))
    }

    /// Where nodes tell that they live.
    pub fn beat(&self) -> String {
        format!("banter.{}.beat", self.cluster())
    }

    fn object_of(&self, partition: Partition, kind: ObjectKind) -> String {
        let base = format!("banter.{}.index.{:03}", self.cluster(), partition.0);
        match kind {
            ObjectKind::Index { segment } => format!("{base}.index.{segment}"),
            ObjectKind::Checkpoint { number } => format!("{base}.checkpoint.{number}"),
            ObjectKind::Newest => format!("{base}.newest"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_has_a_subject_of_its_own_and_its_pieces_one_filter() {
        let names = Names::new(ClusterName::new("c").unwrap());
        let partition = Partition(7);
        let object = |kind, piece| names.object(ObjectName { partition, kind, piece });
        assert_eq!(object(ObjectKind::Index { segment: 9 }, 2), "banter.c.index.007.index.9.2");
        assert_eq!(object(ObjectKind::Checkpoint { number: 9 }, 0), "banter.c.index.007.checkpoint.9.0");
        assert_eq!(object(ObjectKind::Newest, 1), "banter.c.index.007.newest.1");
        assert_eq!(names.all_pieces(partition, ObjectKind::Newest), "banter.c.index.007.newest.*");
        assert_eq!(names.stream(Partition(255)), "BANTER_c_255");
        assert_eq!(names.log(partition), "banter.c.log.007");
    }
}
