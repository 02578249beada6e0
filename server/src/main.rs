//! The program `banter`: arguments in, exit code out.

use std::io::Write as _;
use std::process::ExitCode;

use banter_server::args::{self, Command, Sources};
use banter_server::config::Config;
use banter_server::{ctl_tool, init_tool, key_tool, log_lines, log_tool, program_tool, runtime, token_tool};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match args::parse(std::env::args_os()) {
        Ok(Command::Print(text)) => {
            // Who has closed the pipe has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Command::Run(config, sources)) => serve(&config, *sources),
        Ok(Command::Log(task)) => log_tool::run(&task),
        Ok(Command::Token(line)) => token_tool::run(&line),
        Ok(Command::Ctl(line)) => ctl_tool::run(&line),
        Ok(Command::Key(task)) => key_tool::run(&task),
        Ok(Command::Program(task)) => program_tool::run(&task),
        Ok(Command::Init(task)) => init_tool::run(&task),
        #[cfg(feature = "cluster")]
        Ok(Command::Cluster(line)) => banter_server::cluster_tool::run(&line),
        Err(error) => {
            eprintln!("banter: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn serve(config: &Config, sources: Sources) -> ExitCode {
    // The allocator asks for huge pages, and a core that touches one first waits until the kernel has cleared all of its
    // 2 MiB: 6 ms were seen. Nothing was seen to be slower without them. A kernel that refuses leaves them on.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let log = log_lines::begin(&config.log, config.log_format);
    let listening = |address| {
        let mut stdout = std::io::stdout().lock();
        // Whoever started the server may have closed its end; serving goes on.
        let _ = writeln!(stdout, "listening on {address}").and_then(|()| stdout.flush());
        tracing::info!("open http://{address}/ in a browser to chat");
    };
    match runtime::run(config, sources, &log, listening) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("banter: {fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}
