//! What the tests of the whole share: the golden files, and chance that comes from a seed.

pub mod access_world;
pub mod admin_socket;
pub mod audit;
pub mod crash;
pub mod cut_proxy;
pub mod deep_readers;
pub mod disk_faults;
pub mod failing_reads;
pub mod fuse_disk;
pub mod golden_log;
pub mod janitor;
pub mod ledger;
pub mod load;
pub mod loop_disk;
pub mod nats_servers;
pub mod neighbours;
pub mod nemesis;
pub mod power_cut;
pub mod raw_peer;
pub mod report;
pub mod seeded;
pub mod server_process;
pub mod sim;
pub mod sys;
pub mod toy;
pub mod trial;
pub mod trouble_disk;
pub mod wire_client;

/// The golden files: frames as they must stay, see `tests/golden/README.md`.
pub mod golden {
    use std::fmt::Write as _;
    use std::path::{Path, PathBuf};

    /// One golden file.
    pub struct Golden {
        /// The file's name without its ending.
        pub name: String,
        /// The same request or event as a JSON client has it.
        pub json: String,
        /// The frame.
        pub bytes: Vec<u8>,
    }

    /// Where the file of that name lies.
    pub fn path(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/native").join(name).with_extension("hex")
    }

    /// Every golden file, by name.
    ///
    /// # Panics
    /// When one cannot be read.
    pub fn all() -> Vec<Golden> {
        let folder = path("any").with_file_name("");
        let mut all: Vec<Golden> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("a golden file").path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "hex"))
            .map(|path| {
                let text = std::fs::read_to_string(&path).expect("a golden file is text");
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                parse(name, &text).unwrap_or_else(|| panic!("{}: no golden file", path.display()))
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// A file's text: the JSON as a comment, then 16 bytes a line as hexadecimal numbers and as characters.
    pub fn text(json: &str, bytes: &[u8]) -> String {
        let mut text = format!("# {json}\n");
        for (line, row) in bytes.chunks(16).enumerate() {
            let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
            let plain: String =
                row.iter().map(|&byte| if byte.is_ascii_graphic() { byte as char } else { '.' }).collect();
            let _ = writeln!(text, "{:04x}  {:47}  |{plain}|", line * 16, hex.join(" "));
        }
        text
    }

    fn parse(name: String, text: &str) -> Option<Golden> {
        let (json, dump) = text.strip_prefix("# ")?.split_once('\n')?;
        let bytes = dump
            .lines()
            .flat_map(|line| line.get(6..53).unwrap_or("").split_whitespace())
            .map(|byte| u8::from_str_radix(byte, 16).ok())
            .collect::<Option<_>>()?;
        Some(Golden { name, json: json.to_owned(), bytes })
    }
}
