//! TLS: spoken where it is asked for, with who is trusted, and never left out.

mod servers;

use std::path::Path;
use std::process::{Command, Stdio};

use banter_engine::{Connection, EngineFault};
use servers::{Odd, Servers, USUAL};

#[tokio::test]
async fn a_server_is_believed_only_with_a_certificate_of_who_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    if !certificates(folder.path()) {
        return eprintln!("SKIPPED, nothing was tried: openssl is missing");
    }
    let path = |name: &str| folder.path().join(name);
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?} }}", path("server.pem"), path("server.key"));
    let Some(servers) = Servers::start_with(&[Odd { more: tls, ..USUAL }]) else { return };
    let mut config = servers.config("tls");
    config.servers = vec![format!("tls://127.0.0.1:{}", servers.all[0].port)];
    let unknown = Connection::open(&config).await.unwrap_err();
    assert!(matches!(unknown, EngineFault::Tls { .. }), "{unknown}");
    config.certificate_authority = Some(path("other.pem"));
    let other = Connection::open(&config).await.unwrap_err();
    assert!(matches!(other, EngineFault::Tls { .. }), "{other}");
    config.certificate_authority = Some(path("ca.pem"));
    assert_eq!(Connection::open(&config).await.unwrap().server_name(), "s0");

    // A server that speaks in the clear is not spoken to.
    let Some(servers) = Servers::start_with(&[USUAL]) else { return };
    config.servers = vec![format!("tls://127.0.0.1:{}", servers.all[0].port)];
    Connection::open(&config).await.unwrap_err();
}

/// Two authorities, and a server's certificate of the first; false: there is no openssl.
fn certificates(folder: &Path) -> bool {
    let openssl = |line: &str| {
        let mut command = Command::new("openssl");
        command.args(line.split_whitespace()).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -days 2 -subj /CN=ca -keyout ca.key -out ca.pem"))
        && openssl(&format!("req -x509 {key} -days 2 -subj /CN=other -keyout other.key -out other.pem"))
        && openssl(&format!("req {key} -subj /CN=localhost -keyout server.key -out server.csr"))
        && openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
        )
}
