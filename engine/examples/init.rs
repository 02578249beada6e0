use banter_engine::{Connection, EngineConfig, Founding, Shape, streams};
fn main() {
    let servers: Vec<String> = std::env::args().skip(1).collect();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let connection = Connection::open(&EngineConfig::new("chat", servers)).await.unwrap();
        let founding = Founding { cluster_id: 77, partitions: 64, blank_epoch: 1 << 50 };
        let shape = Shape { replicas: 3, stream_bytes_max: 64 << 20, index_bytes_max: 256 << 20 };
        println!("{:?}", streams::init(&connection, founding, shape, |p| eprintln!("{} {}", p.stream, p.is_new)).await);
    });
}
