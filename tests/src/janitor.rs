//! Unmounts a folder behind this process, however it ends: by Ctrl-C or kill -9 no destructor runs.
//!
//! A server that outlives it, as after a signal to this process alone, has its disk until it ends too.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Waits for the end of its input, which is the end of the process that holds the other end.
const SCRIPT: &str = r#"cat > /dev/null; umount -l "$0""#;

/// The process that waits for the end of this one.
pub struct Janitor {
    child: Child,
}

impl Janitor {
    /// Begins to wait, for a folder that may be mounted later.
    ///
    /// # Errors
    /// Where there is no shell.
    pub fn for_folder(folder: &Path) -> io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT]).arg(folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A terminal's Ctrl-C goes to all of its process group.
        Ok(Janitor { child: shell.process_group(0).spawn()? })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
