//! The program `banter`: arguments in, exit code out.

use std::io::Write as _;
use std::process::ExitCode;

use banter_server::args::{self, Command};
use banter_server::config::Config;
use banter_server::{log_tool, runtime};
use tracing_subscriber::EnvFilter;

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
        Err(error) => {
            eprintln!("banter: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn serve(config: &Config) -> ExitCode {
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let listening = |address| {
        let mut stdout = std::io::stdout().lock();
        // Whoever started the server may have closed its end; serving goes on.
        let _ = writeln!(stdout, "listening on {address}").and_then(|()| stdout.flush());
        tracing::info!("open http://{address}/ in a browser to chat");
    };
    match runtime::run(config, listening) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("banter: {fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}
