//! `banter init`: a folder with all that a server for production needs, and the word on what to do next.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use banter_access::api_key::{digest_of, write_digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::Args;

use crate::host::EXIT_CONFIG;
use crate::key_tool::{KeyFileFault, KeyFiles, KeyKind, KeyPair, MODE_PRIVATE, MODE_PUBLIC, write_new};

/// Whom tokens are made for, unless the configuration is changed.
const AUDIENCE: &str = "banter";
/// Bytes that the kernel takes as the path of a socket, without its end (`sun_path`).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Bytes of randomness in a key of the interface for backends.
const API_KEY_BYTES: usize = 32;

/// Where it is to be.
#[derive(Clone, Debug, Args)]
pub struct InitTask {
    /// The folder, made if needed
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The kind of the key pair: ed25519 is for EdDSA, p256 for ES256
    #[arg(long, value_name = "KIND", default_value = "ed25519")]
    kind: KeyKind,
}

/// Why there is nothing.
#[derive(Debug, thiserror::Error)]
enum InitFault {
    #[error("cannot make the folder {path}: {error}", path = .path.display())]
    Folder { path: PathBuf, error: io::Error },
    #[error("the folder's name {0:?} is not UTF-8, and the configuration has to say it")]
    NotText(PathBuf),
    #[error(transparent)]
    File(#[from] KeyFileFault),
}

/// What was made.
struct Made {
    folder: String,
    keys: KeyFiles,
    config: PathBuf,
    /// Where the key of the interface for backends lies.
    api_key: PathBuf,
}

/// Makes it, and says what it made and what comes next.
pub fn run(task: &InitTask) -> ExitCode {
    match made(task) {
        Ok(made) => {
            // Who has closed the pipe has read enough.
            let _ = io::stdout().lock().write_all(made.said().as_bytes());
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("banter: {fault}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn made(task: &InitTask) -> Result<Made, InitFault> {
    let fault = |error| InitFault::Folder { path: task.folder.clone(), error };
    std::fs::create_dir_all(&task.folder).map_err(fault)?;
    // As seen from everywhere: the server may be started in another folder.
    let path = task.folder.canonicalize().map_err(fault)?;
    let folder = path.to_str().ok_or_else(|| InitFault::NotText(path.clone()))?.to_owned();
    let (keys, config, api_key) = (KeyFiles::of(&path.join("app")), path.join("banter.toml"), path.join("api.key"));
    let made = Made { keys, config, api_key, folder };
    let key = new_api_key()?;
    // The configuration comes first: where it stands already, no key is made beside it.
    write_new(&made.config, &made.configuration(&key), MODE_PUBLIC)?;
    let api_key = write_new(&made.api_key, &format!("{key}\n"), MODE_PRIVATE);
    // What is removed is this call's own, and nobody has it.
    api_key.inspect_err(|_| made.remove(&[&made.config]))?;
    let pair = KeyPair::make(task.kind).and_then(|pair| pair.write(&made.keys));
    pair.inspect_err(|_| made.remove(&[&made.config, &made.api_key]))?;
    Ok(made)
}

fn new_api_key() -> Result<String, KeyFileFault> {
    let mut bytes = [0; API_KEY_BYTES];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

impl Made {
    fn remove(&self, files: &[&Path]) {
        for file in files {
            let _ = std::fs::remove_file(file);
        }
    }

    /// With the hash of the key alone: who reads the file has no key.
    fn configuration(&self, api_key: &str) -> String {
        let hash = write_digest(&digest_of(api_key));
        let text = |path: &Path| toml::Value::from(path.to_string_lossy().as_ref()).to_string();
        let data = self.data();
        let socket = socket_line(self.socket().as_deref(), text);
        let (data, public) = (text(&data), text(&self.keys.public));
        format!(
            r#"# A server for production, as `banter init` made it. docs/configuration.md says what each key means.

# A proxy that does TLS stands before it and forwards to this address.
listen = "127.0.0.1:7878"
data = {data}
# Web pages that may connect, beside the server's own: ["https://app.example.com"]
origins = []
# Where that proxy connects from: it says whose each connection is (docs/deploy.md), so that limits meet visitors.
trusted_proxies = ["127.0.0.1"]

[limits]
connections_per_ip_max = 1000
connections_per_user_max = 32
connects_per_second_per_ip_max = 20
connections_unproved_max = 10000

[auth]
mode = "token"
# Public keys; your backend signs with the private one. Several while you change it.
keys = [{public}]
# Tokens have "aud": "{AUDIENCE}", so that none is taken that was made for something else.
audience = "{AUDIENCE}"
lifetime_hours_max = 24
# Whether who has no token comes in, under a name that the server gives it, and may do what `guests` of [[rooms]] says.
guests = false

# What every user may do in a room, whatever its token says. Nobody may do anything that neither of the two gives.
# [[rooms]]
# match = "news"
# users = ["read", "history"]
# guests = ["read"]

# The interface for backends: docs/api.md. Other machines reach it with another address, and a proxy that does TLS before it.
[admin]
listen = "127.0.0.1:7879"
{socket}

[[admin.keys]]
name = "backend"
sha256 = "{hash}"
rights = ["post", "read", "moderate", "operate"]
rooms = ["*"]
"#
        )
    }

    fn data(&self) -> PathBuf {
        Path::new(&self.folder).join("data")
    }

    /// The socket for `banter ctl`, where the kernel takes so long a path.
    fn socket(&self) -> Option<PathBuf> {
        Some(self.data().join("admin.sock")).filter(|path| path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX)
    }

    fn said(&self) -> String {
        let Made { keys: KeyFiles { private, public }, config, api_key, .. } = self;
        let (file, key) = (quoted(config), quoted(private));
        let ctl = match self.socket() {
            Some(_) => format!("banter ctl --config {file} status"),
            None => format!("a short path as socket in [admin] of {file}, for banter ctl"),
        };
        format!(
            "{config}  the configuration\n{private}  the private key, for your backend alone: it makes tokens (mode 0600)\n{public}  \
             the public key, which the configuration names\n{api_key}  your backend's key for the interface of docs/api.md, whose SHA-256 \
             the configuration has (mode 0600)\n\nNext:\n  banter --config {file}\n  banter token --key {key} \
             --audience {AUDIENCE} --user ann --room 'lobby=member' --page http://127.0.0.1:7878\n  banter token inspect \
             --config {file} TOKEN\n  {ctl}\n",
            config = config.display(),
            private = private.display(),
            public = public.display(),
            api_key = api_key.display(),
        )
    }
}

/// The line of the socket for `banter ctl`.
fn socket_line(socket: Option<&Path>, text: impl Fn(&Path) -> String) -> String {
    match socket {
        Some(path) => format!("# For `banter ctl`, by whoever may open the file (mode 0600).\nsocket = {}", text(path)),
        None => format!(
            "# For `banter ctl`: a path of at most {SOCKET_PATH_BYTES_MAX} bytes, which this folder's is not.\n# socket = \"/run/banter/admin.sock\""
        ),
    }
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    if text.chars().all(is_plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Auth, Settings};
    use crate::control::auth::{Judge, OwnKeys};

    fn task(folder: &Path) -> InitTask {
        InitTask { folder: folder.to_owned(), kind: KeyKind::P256 }
    }

    #[test]
    fn what_was_made_is_a_configuration_that_holds_with_a_key_that_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("a \"new\" one");
        let made = made(&task(&folder)).unwrap();
        let config = Settings::read(&made.config).unwrap().resolve(&[0]).unwrap();
        assert_eq!(config.data, folder.canonicalize().unwrap().join("data"));
        let Auth::Token(auth) = &config.auth else { panic!("it asks for tokens") };
        let judge = Judge::of(&OwnKeys::read(auth).unwrap(), None);
        assert_eq!((judge.keys(), auth.rules.audience.as_deref()), (1, Some("banter")));
        let private = std::fs::read_to_string(&made.keys.private).unwrap();
        let written = std::fs::read_to_string(&made.config).unwrap();
        assert!(private.lines().nth(1).is_some_and(|line| !written.contains(line)), "{written}");
        let said = made.said();
        let path = made.config.display().to_string();
        assert!(
            said.contains(&path) && said.contains("app.key' --audience banter") && said.contains("Next:"),
            "{said}"
        );
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        for name in ["banter.toml", "app.key", "app.pem", "api.key"] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(name), "mine").unwrap();
            let fault = made(&task(folder.path())).err().expect(name).to_string();
            assert!(fault.contains(name) && fault.contains("nothing is ever overwritten"), "{fault}");
            let files: Vec<_> =
                std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
            assert_eq!(files, [name], "nothing is left beside it");
            assert_eq!(std::fs::read_to_string(folder.path().join(name)).unwrap(), "mine");
        }
    }

    #[test]
    fn a_socket_whose_path_the_kernel_would_not_take_is_left_to_the_reader() {
        let folder = tempfile::tempdir().unwrap();
        for (name, has_socket) in
            [("short", true), ("a-folder-of-forty-bytes-and-a-bit-more--".repeat(4).as_str(), false)]
        {
            let made = made(&task(&folder.path().join(name))).unwrap();
            let config = Settings::read(&made.config).unwrap().resolve(&[0]).unwrap();
            let socket = config.admin.unwrap().socket;
            assert_eq!(socket.is_some(), has_socket, "{name}: {socket:?}");
            assert_eq!(made.said().contains("banter.toml status"), has_socket, "what is said can be done");
            assert!(socket.is_none_or(|socket| socket == config.data.join("admin.sock")));
        }
    }

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        assert_eq!(quoted(Path::new("/etc/banter/app.key")), "/etc/banter/app.key");
        assert_eq!(quoted(Path::new("/a b's")), r"'/a b'\''s'");
    }
}
