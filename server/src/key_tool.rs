//! `banter key new`: makes a key pair, of which the backend keeps one file and the server is given the other.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, Subcommand, ValueEnum};

use crate::host::EXIT_CONFIG;

/// Who may read what only its owner may know.
pub const MODE_PRIVATE: u32 = 0o600;
/// Who may read what everybody may know.
pub const MODE_PUBLIC: u32 = 0o644;
/// Characters of a line of PEM (RFC 7468, 2).
const PEM_LINE_CHARS: usize = 64;

/// What is to be done with keys.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyTask {
    /// Makes a key pair: NAME.key for your backend, NAME.pem for the server
    New(NewKey),
}

/// The pair to make.
#[derive(Clone, Debug, Args)]
pub struct NewKey {
    /// Where, without an ending: /etc/banter/app gives app.key and app.pem there
    #[arg(value_name = "NAME")]
    pub name: PathBuf,
    /// Its kind: ed25519 is for EdDSA, p256 for ES256
    #[arg(long, value_name = "KIND", default_value = "ed25519")]
    pub kind: KeyKind,
}

/// A kind of key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// Ed25519, for EdDSA.
    Ed25519,
    /// P-256, for ES256.
    P256,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileFault {
    /// The file is there already, or cannot be made.
    #[error("cannot make {path}: {error}{hint}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The library could not make a key.
    #[error("the library made no key")]
    Library,
}

impl From<Unspecified> for KeyFileFault {
    fn from(_: Unspecified) -> Self {
        KeyFileFault::Library
    }
}

/// A private key and its public one, both PEM.
pub struct KeyPair {
    private: String,
    public: String,
}

/// The two files of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFiles {
    /// The private key, for who makes tokens.
    pub private: PathBuf,
    /// The public key, for the server.
    pub public: PathBuf,
}

/// Makes them, and says what was made.
pub fn run(task: &KeyTask) -> ExitCode {
    let KeyTask::New(new) = task;
    let files = KeyFiles::of(&new.name);
    match KeyPair::make(new.kind).and_then(|pair| pair.write(&files)) {
        Ok(()) => {
            let (private, public) = (files.private.display(), files.public.display());
            // Who has closed the pipe has read enough.
            let _ = writeln!(
                io::stdout().lock(),
                "{private}  the private key, for your backend alone: it makes tokens (mode 0600)\n{public}  the public key, for the \
                 server: name it in keys of [auth], and send SIGHUP"
            );
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("banter: {fault}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

impl KeyFiles {
    /// With these endings.
    #[must_use]
    pub fn of(name: &Path) -> Self {
        let with = |ending: &str| {
            let mut file = name.as_os_str().to_owned();
            file.push(ending);
            PathBuf::from(file)
        };
        KeyFiles { private: with(".key"), public: with(".pem") }
    }
}

impl KeyPair {
    /// Makes one.
    ///
    /// # Errors
    /// The library has no randomness.
    pub fn make(kind: KeyKind) -> Result<Self, KeyFileFault> {
        match kind {
            KeyKind::Ed25519 => {
                let pair = Ed25519KeyPair::generate()?;
                // The first version, since OpenSSL reads no other.
                Ok(Self::of(pair.to_pkcs8v1()?.as_ref(), &pair.public_key().as_der()?))
            }
            KeyKind::P256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
                Ok(Self::of(pair.to_pkcs8v1()?.as_ref(), &pair.public_key().as_der()?))
            }
        }
    }

    /// The private key, as PEM of PKCS #8.
    #[must_use]
    pub fn private_pem(&self) -> &str {
        &self.private
    }

    fn of(private: &[u8], public: &PublicKeyX509Der<'_>) -> Self {
        KeyPair { private: pem("PRIVATE KEY", private), public: pem("PUBLIC KEY", public.as_ref()) }
    }

    /// Writes both files, or neither.
    ///
    /// # Errors
    /// One is there already, or cannot be made.
    pub fn write(&self, files: &KeyFiles) -> Result<(), KeyFileFault> {
        write_new(&files.private, &self.private, MODE_PRIVATE)?;
        write_new(&files.public, &self.public, MODE_PUBLIC).inspect_err(|_| {
            // It is this call's own, and nobody has it.
            let _ = std::fs::remove_file(&files.private);
        })
    }
}

/// Writes a file that is not there yet, so that nothing is ever overwritten.
///
/// # Errors
/// It is there already, or cannot be made.
pub fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), KeyFileFault> {
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = made.and_then(|mut file: File| {
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        // Half of it would stand in the way of the next try. It is this call's own.
        written.inspect_err(|_| drop(std::fs::remove_file(path)))
    });
    written.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => ": nothing is ever overwritten; move it away, or choose another place",
            io::ErrorKind::NotFound => ": its folder is not there",
            _ => "",
        };
        KeyFileFault::File { path: path.to_owned(), error, hint }
    })
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = (0..body.len())
        .step_by(PEM_LINE_CHARS)
        .filter_map(|from| body.get(from..body.len().min(from + PEM_LINE_CHARS)))
        .collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use banter_access::keys::Keys;
    use banter_access::mint::{ClaimsToMint, SigningKey, mint};
    use banter_access::token::{Rules, judge};

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn what_the_private_key_signs_the_public_one_takes() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, algorithm) in [(KeyKind::Ed25519, "EdDSA"), (KeyKind::P256, "ES256")] {
            let files = KeyFiles::of(&folder.path().join(algorithm));
            KeyPair::make(kind).unwrap().write(&files).unwrap();
            assert_eq!((mode(&files.private), mode(&files.public)), (0o600, 0o644));
            let private = std::fs::read_to_string(&files.private).unwrap();
            assert!(private.lines().all(|line| line.len() <= 64), "{private}");
            let signing = SigningKey::from_pem(&private).unwrap();
            assert_eq!(signing.algorithm().name(), algorithm);
            let mut keys = Keys::new();
            keys.add_text(&std::fs::read_to_string(&files.public).unwrap()).unwrap();
            let token = mint(&signing, &ClaimsToMint::new("ann", 1_000, 1_600)).unwrap();
            assert!(judge(&token, &keys, &Rules::default(), 1_000).is_ok());
        }
    }

    #[test]
    fn nothing_is_overwritten_and_half_a_pair_is_not_left() {
        let folder = tempfile::tempdir().unwrap();
        let files = KeyFiles::of(&folder.path().join("app.v1"));
        assert!(files.public.ends_with("app.v1.pem"));
        std::fs::write(&files.public, "mine").unwrap();
        let fault = KeyPair::make(KeyKind::Ed25519).unwrap().write(&files).unwrap_err().to_string();
        assert!(fault.contains("app.v1.pem") && fault.contains("nothing is ever overwritten"), "{fault}");
        assert_eq!(std::fs::read_to_string(&files.public).unwrap(), "mine");
        assert!(!files.private.exists());
        std::fs::rename(&files.public, &files.private).unwrap();
        assert!(KeyPair::make(KeyKind::Ed25519).unwrap().write(&files).is_err());
        assert_eq!(std::fs::read_to_string(&files.private).unwrap(), "mine");
        assert!(!files.public.exists());
    }
}
