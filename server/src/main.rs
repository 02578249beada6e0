//! The program `banter`: arguments in, exit code out.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use banter_server::args::{self, Command};
use banter_server::config::Config;
use banter_server::{log_tool, runtime, token_tool};
use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_subscriber::EnvFilter;

/// Lines of the log that wait to be written.
const LOG_LINES_MAX: usize = 10_000;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match args::parse(std::env::args_os()) {
        Ok(Command::Print(text)) => {
            // Who has closed the pipe has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Command::Run(config)) => serve(&config),
        Ok(Command::Log(task)) => log_tool::run(&task),
        Ok(Command::Token(task)) => token_tool::run(&task),
        Err(error) => {
            eprintln!("banter: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn serve(config: &Config) -> ExitCode {
    // The allocator asks for huge pages, and a core that touches one first waits until the kernel has cleared all of its
    // 2 MiB: 6 ms were seen. Nothing was seen to be slower without them. A kernel that refuses leaves them on.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    // Lines are written by a thread of their own, and above its queue they are dropped: a stderr that takes nothing, a
    // stalled disk or a full pipe, must not stop a core.
    let (writer, _flushed_at_the_end) =
        NonBlockingBuilder::default().buffered_lines_limit(LOG_LINES_MAX).lossy(true).finish(std::io::stderr());
    let log_lines = writer.error_counter();
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(is_terminal)
        .with_target(false)
        .init();
    let listening = |address| {
        let mut stdout = std::io::stdout().lock();
        // Whoever started the server may have closed its end; serving goes on.
        let _ = writeln!(stdout, "listening on {address}").and_then(|()| stdout.flush());
        tracing::info!("open http://{address}/ in a browser to chat");
    };
    match runtime::run(config, log_lines, listening) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("banter: {fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}
