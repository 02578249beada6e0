//! Who the connections of a run say they are: a name each, and where the server asks for proof, a token each.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;

use crate::args::Target;
use crate::fault::LoadFault;

/// What the names of those begin with who read and post.
pub const MEMBERS: &str = "u";
/// Of those who come back in a storm.
pub const CLIENTS: &str = "r";
/// Of those who are hostile.
pub const ATTACKERS: &str = "x";
/// Below the 24 hours that a server takes by default, and twice as long as any run: nobody is told `expiring`.
const LIFETIME_SECONDS: u64 = 12 * 3600;

/// The connections of a crowd, by number. The tokens are made before any of them opens, so that making them is in no figure.
#[derive(Clone, Debug)]
pub struct Identities {
    prefix: &'static str,
    users: Option<u32>,
    /// The number of the first connection, where others have those before it.
    first: usize,
    tokens: Rc<[String]>,
}

impl Default for Identities {
    /// Members without tokens, each a user of its own.
    fn default() -> Self {
        Identities { prefix: MEMBERS, users: None, first: 0, tokens: Rc::default() }
    }
}

impl Identities {
    /// Of so many connections, as the arguments want them.
    ///
    /// # Errors
    /// When the secret cannot be read, or signs no token.
    pub fn of(target: &Target, prefix: &'static str, connections: usize) -> Result<Self, LoadFault> {
        Self::from(target, prefix, 0, connections)
    }

    /// Of so many connections from that number on.
    ///
    /// # Errors
    /// When the secret cannot be read, or signs no token.
    pub fn from(target: &Target, prefix: &'static str, first: usize, connections: usize) -> Result<Self, LoadFault> {
        let nameless = Identities { prefix, users: target.users, first, tokens: Rc::default() };
        match &target.secret_file {
            None => Ok(nameless),
            Some(path) => nameless.with_tokens(&read_secret(path)?, connections),
        }
    }

    /// Of connections that show tokens which there are already.
    pub fn showing(prefix: &'static str, users: Option<u32>, tokens: Vec<String>) -> Self {
        Identities { prefix, users, first: 0, tokens: tokens.into() }
    }

    fn with_tokens(self, secret: &[u8], connections: usize) -> Result<Self, LoadFault> {
        let (key, now_seconds) = (SigningKey::from_secret(secret)?, now_seconds());
        let tokens = (0..connections).map(|number| Ok(mint(&key, &self.claims(number, now_seconds))?));
        Ok(Identities { tokens: tokens.collect::<Result<_, LoadFault>>()?, ..self })
    }

    /// Every right of a member in every room. The `jti` makes a token of two connections of one user two.
    fn claims(&self, number: usize, now_seconds: u64) -> ClaimsToMint {
        let rooms = Pattern::new("*").map(|every| (every, Rights::MEMBER)).into_iter().collect();
        let token_id = Some(format!("{}{}", self.prefix, self.first + number));
        let claims = ClaimsToMint::new(&self.user(number), now_seconds, now_seconds + LIFETIME_SECONDS);
        ClaimsToMint { rooms, token_id, ..claims }
    }

    /// The user of a connection.
    pub fn user(&self, number: usize) -> String {
        let number = self.first + number;
        let user = self.users.map_or(number, |users| number % users as usize);
        format!("{}{user}", self.prefix)
    }

    /// The token of a connection; none where the server asks for none.
    pub fn token(&self, number: usize) -> Option<&str> {
        self.tokens.get(number).map(String::as_str)
    }
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A secret, as the server reads it: one line end at its end does not count.
fn read_secret(path: &Path) -> Result<Vec<u8>, LoadFault> {
    let mut secret = fs::read(path).map_err(|error| LoadFault::Secret { path: path.to_owned(), error })?;
    if secret.last() == Some(&b'\n') {
        secret.pop();
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use banter_access::keys::Keys;
    use banter_access::token::{Rules, judge};

    use super::*;

    const SECRET: &[u8] = b"a secret of more than thirty-two bytes, for tests";

    fn identities(users: Option<u32>) -> Identities {
        Identities { users, prefix: CLIENTS, ..Identities::default() }.with_tokens(SECRET, 6).unwrap()
    }

    #[test]
    fn a_server_takes_every_token_and_no_two_are_the_same() {
        let mut keys = Keys::default();
        keys.add_secret(SECRET, None).unwrap();
        for (users, names) in [(None, 6), (Some(4), 4)] {
            let made = identities(users);
            let proofs: Vec<_> = (0..6)
                .map(|number| judge(made.token(number).unwrap(), &keys, &Rules::default(), now_seconds()).unwrap())
                .collect();
            for (number, proof) in proofs.iter().enumerate() {
                assert_eq!(proof.user().as_str(), made.user(number));
                assert_eq!(proof.rights("load-0"), Rights::MEMBER);
            }
            let different: BTreeSet<_> = proofs.iter().map(|proof| proof.user().as_str()).collect();
            assert_eq!(different.len(), names);
            assert_eq!((0..6).map(|number| made.token(number)).collect::<BTreeSet<_>>().len(), 6);
        }
    }

    #[test]
    fn who_has_no_secret_shows_no_token() {
        assert_eq!((Identities::default().user(3), Identities::default().token(3)), ("u3".into(), None));
    }

    #[test]
    fn a_line_end_behind_the_secret_is_none_of_it() {
        let file = std::env::temp_dir().join(format!("banter-loadgen-secret-{}", std::process::id()));
        fs::write(&file, [SECRET, b"\n"].concat()).unwrap();
        let read = read_secret(&file);
        fs::remove_file(&file).unwrap();
        assert_eq!(read.unwrap(), SECRET);
        assert!(read_secret(&file).unwrap_err().to_string().contains("--secret-file"));
    }
}
