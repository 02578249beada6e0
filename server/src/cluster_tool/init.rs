//! `banter cluster init`: makes the streams that are not there, and says what to do next.
//!
//! JetStream sets a stream's size aside on each server that keeps it, when the stream is made. So the sizes of all streams together must
//! fit what the servers may store, or none of them is of use: the usual size is a share of what is left there, and it is looked at
//! before the first stream is made.

use banter_engine::health::{self, Health};
use banter_engine::streams::{self, Description, Progress, StreamState, StreamsFault};
use banter_engine::{Connection, Founding, Shape, growing};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::whom::Told;
use super::{ToolFault, bytes, say};

/// Partitions of a new cluster: few enough that a quiet one costs its servers little, enough for any number of cores.
const PARTITIONS: u16 = 64;
const REPLICAS: u8 = 3;
/// Below this a partition holds a handful of segments, and is full in no time.
const STREAM_BYTES_MIN: u64 = 16 << 20;
/// Where no server says how much it may store. With 64 partitions a server sets 10 GiB aside, which a small disk has.
const STREAM_BYTES: u64 = 128 << 20;
/// Of what the servers have left, the share that a new cluster takes: the other half is there to grow by, or for another cluster.
const ROOM_SHARE: u64 = 2;
/// Each partition's share of the stream of indexes and checkpoints, as a part of its own size. They take a few hundredths of what they
/// are of, and of many small messages in many rooms a quarter.
const INDEX_SHARE: u64 = 4;

/// How the streams are to be.
#[derive(Clone, Debug, Args)]
pub(super) struct InitLine {
    /// Into how many partitions rooms are shared out, for ever: a power of two from 16 to 256 [default: 64]
    #[arg(long, value_name = "N", value_parser = parse_partitions)]
    partitions: Option<u16>,
    /// How much each partition may hold on each server, like 256MiB [default: an equal share of half of what the servers have left]
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse)]
    stream_bytes_max: Option<u64>,
    /// How many servers keep each stream: 3, or 5 where two may be down; 1 only with --unproved [default: 3]
    #[arg(long, value_name = "N", value_parser = parse_replicas, requires_if("1", "unproved"))]
    replicas: Option<u8>,
    /// Allow one copy, for trials: what is acknowledged goes with that server's disk
    #[arg(long)]
    unproved: bool,
}

fn parse_partitions(text: &str) -> Result<u16, String> {
    let is_fit = |count: &u16| count.is_power_of_two() && (16..=256).contains(count);
    text.parse().ok().filter(is_fit).ok_or_else(|| "it must be 16, 32, 64, 128 or 256".to_owned())
}

fn parse_replicas(text: &str) -> Result<u8, String> {
    text.parse()
        .ok()
        .filter(|count| [1, 3, 5].contains(count))
        .ok_or_else(|| "it must be 3, 5, or 1 for trials".to_owned())
}

/// Makes the streams that are not there, and gives those that are as much as is asked.
pub(super) async fn run(told: &Told, line: &InitLine) -> Result<bool, ToolFault> {
    let connection = Connection::open(&told.engine).await?;
    let Health { servers, streams: found, .. } = health::look(&connection, &told.monitoring).await;
    let mut counts = Counts::default();
    let (founding, shape) = match found {
        Ok(found) => {
            let (founding, shape) = as_found(line, &found)?;
            counts.grown = grow(&connection, &found, shape).await?;
            (founding, shape)
        }
        Err(StreamsFault::Missing { .. }) => {
            let rooms = servers.iter().filter_map(|(_, server)| Room::of(server.as_ref().ok()?));
            anew(line, &rooms.collect::<Vec<_>>())?
        }
        Err(fault) => return Err(fault.into()),
    };
    let bar = bar(usize::from(founding.partitions) + 1);
    let done = streams::init(&connection, founding, shape, |Progress { is_new, ready, .. }| {
        *(if is_new { &mut counts.made } else { &mut counts.found }) += 1;
        bar.set_position(ready as u64);
    });
    let founding = done.await;
    bar.finish_and_clear();
    say(&summary(told, founding?, shape, counts))?;
    Ok(true)
}

/// Streams, by what was done with them.
#[derive(Clone, Copy, Default)]
struct Counts {
    made: usize,
    found: usize,
    grown: usize,
}

/// How many grew.
async fn grow(connection: &Connection, found: &Description, shape: Shape) -> Result<usize, ToolFault> {
    let mut grown = 0;
    let bar = bar(found.partitions.len() + 1);
    let done = growing::grow(connection, found, shape, |Progress { is_new, ready, .. }| {
        grown += usize::from(is_new);
        bar.set_position(ready as u64);
    });
    let done = done.await;
    bar.finish_and_clear();
    done?;
    Ok(grown)
}

fn bar(streams: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(streams as u64), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("streams  {bar:40} {pos}/{len}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A cluster that is there stays as it is, but that its streams may grow: what else is asked for may only say the same.
fn as_found(line: &InitLine, found: &Description) -> Result<(Founding, Shape), ToolFault> {
    let partitions = found.founding.partitions;
    let replicas = found.index.config.num_replicas;
    let asked = [
        ("--partitions", line.partitions.map(u64::from), u64::from(partitions), "it never changes"),
        ("--replicas", line.replicas.map(u64::from), replicas.into(), "change it with `nats stream edit --replicas`"),
    ];
    for (flag, asked, is, cure) in asked {
        if let Some(asked) = asked.filter(|asked| *asked != is) {
            let what =
                format!("the cluster is there already, with {flag} {is} and not {asked}: leave the flag out; {cure}");
            return Err(ToolFault::NotMade(what));
        }
    }
    let index_bytes_max = bytes_max(&found.index);
    let sizes = || found.partitions.iter().flatten().map(bytes_max);
    // One that was broken off at once has no other stream yet.
    let of_index = || index_bytes_max / u64::from(partitions) * INDEX_SHARE;
    let largest = sizes().max().unwrap_or_else(of_index);
    let stream_bytes_max = match line.stream_bytes_max {
        Some(asked) if asked < largest => {
            let what = format!(
                "the partitions have {} already, and a stream is never made smaller here: leave --stream-bytes-max out",
                bytes::shown(largest)
            );
            return Err(ToolFault::NotMade(what));
        }
        Some(asked) => asked,
        None if sizes().any(|size| size != largest) => {
            let what = format!(
                "some partitions may hold less than others, whose {largest} bytes are the most: give all of them as much with \
                 --stream-bytes-max {largest}"
            );
            return Err(ToolFault::NotMade(what));
        }
        None => largest,
    };
    let index_bytes_max = index_bytes_max.max(stream_bytes_max / INDEX_SHARE * u64::from(partitions));
    Ok((found.founding, Shape { replicas, stream_bytes_max, index_bytes_max }))
}

fn bytes_max(stream: &StreamState) -> u64 {
    u64::try_from(stream.config.max_bytes).unwrap_or(0)
}

/// What a server may still set aside.
struct Room {
    server: String,
    bytes: u64,
    bytes_max: u64,
}

impl Room {
    fn of(server: &banter_engine::monitoring::ServerState) -> Option<Room> {
        let jetstream = server.jetstream.as_ref()?;
        let bytes_max = jetstream.stored_bytes_max;
        let bytes = bytes_max.saturating_sub(jetstream.reserved_bytes.max(jetstream.stored_bytes));
        Some(Room { server: server.name.clone(), bytes, bytes_max })
    }
}

/// A new cluster, of a size that its servers have.
fn anew(line: &InitLine, rooms: &[Room]) -> Result<(Founding, Shape), ToolFault> {
    let partitions = line.partitions.unwrap_or(PARTITIONS);
    let replicas = line.replicas.unwrap_or(REPLICAS);
    // Where there are more servers than copies, each keeps a part of the streams.
    let least = rooms.iter().min_by_key(|room| room.bytes).filter(|_| rooms.len() <= usize::from(replicas));
    let stream_bytes_max = line.stream_bytes_max.unwrap_or_else(|| usual_bytes(partitions, least));
    if stream_bytes_max < STREAM_BYTES_MIN {
        let what = format!(
            "--stream-bytes-max {stream_bytes_max}: a partition needs {} at least",
            bytes::shown(STREAM_BYTES_MIN)
        );
        return Err(ToolFault::NotMade(what));
    }
    let index_bytes_max = stream_bytes_max / INDEX_SHARE * u64::from(partitions);
    let shape = Shape { replicas, stream_bytes_max, index_bytes_max };
    let needed = set_aside(partitions, shape);
    if let Some(room) = least.filter(|room| room.bytes < needed) {
        return Err(ToolFault::NotMade(no_room(room, partitions, shape, needed)));
    }
    let founding = Founding { cluster_id: random()?, partitions, blank_epoch: blank_epoch(random()?) };
    Ok((founding, shape))
}

/// An equal share of what the server with the least has left, in whole MiB.
fn usual_bytes(partitions: u16, least: Option<&Room>) -> u64 {
    let Some(room) = least else { return STREAM_BYTES };
    let shares = u64::from(partitions) * (INDEX_SHARE + 1) / INDEX_SHARE;
    let share = (room.bytes / ROOM_SHARE / shares) >> 20 << 20;
    share.max(STREAM_BYTES_MIN)
}

/// What all streams set aside on a server that keeps each.
fn set_aside(partitions: u16, shape: Shape) -> u64 {
    u64::from(partitions) * shape.stream_bytes_max + shape.index_bytes_max
}

fn no_room(room: &Room, partitions: u16, shape: Shape, needed: u64) -> String {
    format!(
        "{partitions} partitions of {} and their index set {} aside on each server, and {} has {} of its {} left: raise `jetstream {{ \
         max_file_store }}` of the servers and start them again, or say a smaller --stream-bytes-max ({} at least), or fewer \
         --partitions",
        bytes::shown(shape.stream_bytes_max),
        bytes::shown(needed),
        room.server,
        bytes::shown(room.bytes),
        bytes::shown(room.bytes_max),
        bytes::shown(STREAM_BYTES_MIN)
    )
}

/// Epochs of rooms that never had a message begin at a place by chance, so that no other cluster's cursor fits; above every epoch that
/// a server of its own gives, and below those of rooms in memory.
fn blank_epoch(chance: u64) -> u64 {
    (1 << 50) | (chance & ((1 << 50) - 1))
}

fn random() -> Result<u64, ToolFault> {
    let mut bytes = [0; 8];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    filled.map_err(|_| ToolFault::NotMade("the generator of random numbers failed: try again".to_owned()))?;
    Ok(u64::from_le_bytes(bytes))
}

fn summary(told: &Told, founding: Founding, shape: Shape, Counts { made, found, grown }: Counts) -> String {
    let Founding { partitions, .. } = founding;
    let streams = match (made, found) {
        (made, 0) => format!("{made} streams made"),
        (0, found) if grown > 0 => {
            format!("{grown} of {found} streams have more room; restart the nodes, one by one, to use it")
        }
        (0, found) => format!("all {found} streams were there already"),
        (made, found) => format!("{made} streams made, {found} were there already"),
    };
    let copies = match shape.replicas {
        1 => "1 copy: NOT SAFE, for trials".to_owned(),
        replicas => format!("{replicas} copies"),
    };
    let head = format!(
        "cluster {}: {streams}\n{partitions} partitions of {}, {copies}; a server that keeps all of them has {} set aside\n",
        told.engine.cluster,
        bytes::shown(shape.stream_bytes_max),
        bytes::shown(set_aside(partitions, shape)),
    );
    head + &next(told, made > 0)
}

/// What to do next.
fn next(told: &Told, is_new: bool) -> String {
    let command = |task: &str| format!("banter cluster {task}{}", told.flags);
    let mut steps = vec![(command("status"), "how all of it is, and what to do")];
    if is_new {
        let start = ("banter --config FILE".to_owned(), "on two machines, with [cluster] as in docs/cluster.md");
        steps.splice(0..0, [(command("check"), "the servers prove that they keep what they acknowledge"), start]);
    }
    let width = steps.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    let steps = steps.iter().map(|(command, what)| format!("  {command:<width$}   {what}\n"));
    format!("\nnext:\n{}", steps.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING_SAID: InitLine =
        InitLine { partitions: None, stream_bytes_max: None, replicas: None, unproved: false };

    fn rooms(bytes: [u64; 3]) -> Vec<Room> {
        bytes.map(|bytes| Room { server: format!("with-{bytes}"), bytes, bytes_max: 1 << 40 }).into()
    }

    #[test]
    fn a_new_cluster_takes_half_of_what_the_smallest_server_has_left() {
        let (founding, shape) = anew(&NOTHING_SAID, &rooms([1 << 40, 80 << 30, 90 << 30])).unwrap();
        assert_eq!((founding.partitions, shape.replicas, shape.stream_bytes_max), (64, 3, 512 << 20));
        assert_eq!(set_aside(founding.partitions, shape), 40 << 30);
        assert!((1 << 50..1 << 51).contains(&founding.blank_epoch));
        let (_, unasked) = anew(&NOTHING_SAID, &[]).unwrap();
        assert_eq!(set_aside(64, unasked), 10 << 30);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_cure_before_a_stream_is_made() {
        let fault = |line: InitLine, bytes| anew(&line, &rooms(bytes)).unwrap_err().to_string();
        let told = fault(NOTHING_SAID, [1 << 40, 1 << 30, 1 << 40]);
        for says in ["64 partitions of 16 MiB", "with-1073741824 has 1 GiB", "max_file_store", "--partitions"] {
            assert!(told.contains(says), "{says}: {told}");
        }
        let line = InitLine { stream_bytes_max: Some(1 << 30), ..NOTHING_SAID };
        assert!(fault(line, [64 << 30; 3]).contains("set 80 GiB aside"));
        let line = InitLine { stream_bytes_max: Some(1 << 20), ..NOTHING_SAID };
        assert!(fault(line, [64 << 30; 3]).contains("16 MiB at least"));
        // Of five servers each keeps a part, and JetStream says whether it fits.
        let many: Vec<Room> = rooms([1; 3]).into_iter().chain(rooms([1; 3])).collect();
        assert!(anew(&NOTHING_SAID, &many).is_ok());
    }

    #[test]
    fn blank_epochs_lie_between_those_of_servers_and_those_of_memory() {
        for chance in [0, 1, u64::MAX, 1 << 50, 1 << 63] {
            assert!((1 << 50..1 << 51).contains(&blank_epoch(chance)));
        }
    }
}
