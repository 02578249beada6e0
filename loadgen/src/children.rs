//! This program's own processes: what they say on stdout, and how they end.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::fault::{LoadFault, host};

/// Lines of a child's stderr that are quoted where it fails.
const QUOTED_MAX: usize = 5;

/// What a child did.
pub enum Did {
    /// It said a line on stderr.
    Told(String),
    /// It said that so many of its connections are joined.
    Joined(usize),
    /// It has ended, with that exit code, having said that on stdout.
    Ended(Option<i32>, Vec<u8>),
}

/// Children that are told apart by their number.
pub struct Children {
    stdins: Vec<Option<ChildStdin>>,
    kill: Vec<Sender<()>>,
    events: Receiver<(usize, Did)>,
    sender: Sender<(usize, Did)>,
}

impl Default for Children {
    fn default() -> Self {
        let (sender, events) = channel();
        Children { stdins: Vec::new(), kill: Vec::new(), events, sender }
    }
}

impl Children {
    /// Starts one more, with those arguments. `counts`: its stdout is lines with numbers, and not figures.
    ///
    /// # Errors
    /// When the host does not start it.
    pub fn start(&mut self, words: &[String], counts: bool) -> Result<(), LoadFault> {
        let program = std::env::current_exe().map_err(host("finding this program"))?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(host("starting a process of this program"))?;
        self.stdins.push(child.stdin.take());
        let (kill, killed) = channel();
        self.kill.push(kill);
        let (number, sender) = (self.kill.len() - 1, self.sender.clone());
        thread::spawn(move || follow(number, child, counts, &sender, &killed));
        Ok(())
    }

    /// How many there have been.
    pub fn len(&self) -> usize {
        self.kill.len()
    }

    /// Whether there has been none.
    pub fn is_empty(&self) -> bool {
        self.kill.is_empty()
    }

    /// What the next of them does within that time.
    pub fn next(&self, patience: Duration) -> Option<(usize, Did)> {
        self.events.recv_timeout(patience).ok()
    }

    /// Ends the stdin of all: those that hold something let go.
    pub fn let_go(&mut self) {
        self.stdins.clear();
    }
}

impl Drop for Children {
    /// None outlives this.
    fn drop(&mut self) {
        self.let_go();
        self.kill.clear();
        // Each follower ends its child and says so; who has ended before says nothing more.
        let (unused, _) = channel();
        self.sender = unused;
        while self.events.recv().is_ok() {}
    }
}

/// Tells what a child does until it has ended; ends it when nobody wants it any more.
fn follow(number: usize, mut child: Child, counts: bool, sender: &Sender<(usize, Did)>, killed: &Receiver<()>) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let tell = sender.clone();
    let errors = thread::spawn(move || {
        for line in stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok)) {
            let _ = tell.send((number, Did::Told(line)));
        }
    });
    let tell = sender.clone();
    let output = thread::spawn(move || read_output(number, stdout, counts, &tell));
    let code = wait(&mut child, killed);
    let _ = errors.join();
    let said = output.join().unwrap_or_default();
    let _ = sender.send((number, Did::Ended(code, said)));
}

fn read_output(number: usize, pipe: Option<impl Read>, counts: bool, sender: &Sender<(usize, Did)>) -> Vec<u8> {
    let Some(mut pipe) = pipe else { return Vec::new() };
    let mut said = Vec::new();
    if counts {
        let lines = BufReader::new(pipe).lines().map_while(Result::ok);
        for joined in lines.filter_map(|line| line.parse().ok()) {
            let _ = sender.send((number, Did::Joined(joined)));
        }
    } else {
        let _ = pipe.read_to_end(&mut said);
    }
    said
}

/// Waits for the end, or makes one.
fn wait(child: &mut Child, killed: &Receiver<()>) -> Option<i32> {
    const LOOK: Duration = Duration::from_millis(100);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return status.code();
        }
        if let Err(std::sync::mpsc::RecvTimeoutError::Disconnected) = killed.recv_timeout(LOOK) {
            let _ = child.kill();
            return child.wait().ok().and_then(|status| status.code());
        }
    }
}

/// Why a child made no run, in its own words.
pub fn fault(name: &str, code: Option<i32>, told: &[String]) -> LoadFault {
    let quoted = told[told.len().saturating_sub(QUOTED_MAX)..].join("; ");
    let why = if quoted.is_empty() { io::Error::other(format!("exit code {code:?}")).to_string() } else { quoted };
    LoadFault::Child { name: name.into(), why }
}
