//! `[admin]`: where the backend's interface listens, and which programs may do what there.

use std::net::SocketAddr;
use std::path::PathBuf;

use banter_access::api_key::{
    API_KEY_NAME_CHARS_MAX, API_KEYS_MAX, ApiKey, ApiRights, DIGEST_BYTES, parse_digest, write_digest,
};
use banter_access::pattern::Pattern;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::Document;
use super::{ConfigFault, Given, MUST_LISTEN, Table, parse_listen};

/// The keys of `[admin]`.
pub(super) const ADMIN_KEYS: [&str; 4] = ["listen", "socket", "api_requests_per_second_max", "keys"];
/// The keys of an entry of `[[admin.keys]]`.
pub(super) const API_KEY_KEYS: [&str; 4] = ["name", "sha256", "rights", "rooms"];
/// Requests a second of one key, unless told otherwise.
pub const DEFAULT_API_REQUESTS_PER_SECOND_MAX: u32 = 1_000;
const OWN_NAME: &str = "{user}";

const MUST_ADMIN: &str = "must be a table: [admin]";
const MUST_SOCKET: &str = "must be the path of a socket, as a string";
const MUST_KEYS: &str = "must be tables, each under its own [[admin.keys]]";
const MUST_NAME: &str = "must be a name of 1 to 64 characters";
const MUST_DIGEST: &str = "must be the SHA-256 of the key as 64 hexadecimal digits (printf %s KEY | sha256sum)";
const MUST_RIGHTS: &str = "must be a list of \"post\", \"read\", \"moderate\" and \"operate\"";
const MUST_ROOMS: &str = "must be a list of room names with a * at the end for many, like [\"game-*\"]";

/// The backend's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens for HTTP, if anywhere; port 0 takes a free one.
    pub listen: Option<SocketAddr>,
    /// Its unix socket, for whoever may open it.
    pub socket: Option<PathBuf>,
    /// Requests a second of one key; 0: no limit.
    pub api_requests_per_second_max: u32,
    /// Who may come over HTTP.
    pub keys: Vec<ApiKey>,
}

impl Admin {
    /// As the file says it.
    pub(super) fn to_toml(&self) -> String {
        let text = |text: &str| toml::Value::from(text).to_string();
        let mut out = String::from("\n[admin]\n");
        if let Some(listen) = self.listen {
            out.push_str(&format!("listen = \"{listen}\"\n"));
        }
        if let Some(socket) = &self.socket {
            out.push_str(&format!("socket = {}\n", text(&socket.to_string_lossy())));
        }
        out.push_str(&format!("api_requests_per_second_max = {}\n", self.api_requests_per_second_max));
        for key in &self.keys {
            let rights: Vec<String> = key.rights.names().map(text).collect();
            let rooms: Vec<String> = key.rooms.iter().map(|pattern| text(pattern.as_str())).collect();
            out.push_str(&format!(
                "\n[[admin.keys]]\nname = {}\nsha256 = \"{}\"\nrights = [{}]\nrooms = [{}]\n",
                text(&key.name),
                write_digest(&key.digest),
                rights.join(", "),
                rooms.join(", "),
            ));
        }
        out
    }
}

/// What is said of keys and does nothing, for people.
pub(super) fn warnings(admin: &Admin) -> impl Iterator<Item = String> {
    admin.keys.iter().filter_map(|key| {
        let name = &key.name;
        if key.rights == ApiRights::NONE {
            return Some(format!("[[admin.keys]] name = \"{name}\": it has no `rights`, and is refused whatever it asks for"));
        }
        let is_in_vain = key.rights.contains(ApiRights::OPERATE) && !key.covers_all();
        is_in_vain.then(|| {
            format!(
                "[[admin.keys]] name = \"{name}\": `operate` is of the whole server, and of no use to a key of some `rooms` alone: \
                 leave one of the two out"
            )
        })
    })
}

impl Document<'_> {
    /// `[admin]`.
    pub(super) fn admin(&self, value: &Spanned<DeValue<'_>>) -> Result<Given<Admin>, ConfigFault> {
        let table = value.get_ref().as_table().ok_or_else(|| self.wrong("admin", value, MUST_ADMIN))?;
        let place = self.place(&value.span());
        let mut admin = Admin {
            listen: None,
            socket: None,
            api_requests_per_second_max: DEFAULT_API_REQUESTS_PER_SECOND_MAX,
            keys: Vec::new(),
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "listen" => admin.listen = Some(self.text_value("listen", value, MUST_LISTEN, parse_listen)?.value),
                "socket" => admin.socket = Some(self.text_value("socket", value, MUST_SOCKET, parse_socket)?.value),
                "api_requests_per_second_max" => {
                    let given = self.number("api_requests_per_second_max", value, u32::MAX.into())?;
                    admin.api_requests_per_second_max = given.value as u32;
                }
                "keys" => admin.keys = self.api_keys(value)?,
                unknown => return Err(self.unknown_key(&key.span(), unknown, Table::Admin)),
            }
        }
        let fault = |what: &str| ConfigFault::Table { place: place.clone(), what: what.to_owned() };
        if admin.listen.is_none() && admin.socket.is_none() {
            return Err(fault("[admin] says neither listen = \"127.0.0.1:7879\" nor socket = \"PATH\""));
        }
        if admin.listen.is_some() && admin.keys.is_empty() {
            let what =
                "[admin] listens and nobody has a key: add [[admin.keys]] (name, sha256, rights), or say only socket";
            return Err(fault(what));
        }
        Ok(Given { value: admin, place })
    }

    fn api_keys(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<ApiKey>, ConfigFault> {
        let entries = value.get_ref().as_array().ok_or_else(|| self.wrong("keys", value, MUST_KEYS))?;
        let mut keys: Vec<ApiKey> = Vec::new();
        for entry in entries.iter() {
            let table = entry.get_ref().as_table().ok_or_else(|| self.wrong("keys", entry, MUST_KEYS))?;
            let fault = |what: String| ConfigFault::Table { place: self.place(&entry.span()), what };
            if keys.len() == API_KEYS_MAX {
                return Err(fault(format!("[[admin.keys]] has more than {API_KEYS_MAX} entries")));
            }
            let key = self.api_key(table).and_then(|key| {
                key.ok_or_else(|| fault("an entry of [[admin.keys]] needs name, sha256 and rights".to_owned()))
            })?;
            if keys.iter().any(|other| other.name == key.name || other.digest == key.digest) {
                return Err(fault(format!(
                    "two entries of [[admin.keys]] have the name or the key of \"{}\"",
                    key.name
                )));
            }
            keys.push(key);
        }
        Ok(keys)
    }

    fn api_key(&self, table: &DeTable<'_>) -> Result<Option<ApiKey>, ConfigFault> {
        let (mut name, mut digest, mut rights) = (None, None, None);
        let mut rooms = Pattern::new("*").into_iter().collect();
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "name" => name = Some(self.text_value("name", value, MUST_NAME, parse_name)?.value),
                "sha256" => digest = Some(self.text_value("sha256", value, MUST_DIGEST, parse_sha256)?.value),
                "rights" => rights = Some(self.api_rights(value)?),
                "rooms" => rooms = self.api_rooms(value)?,
                unknown => return Err(self.unknown_key(&key.span(), unknown, Table::AdminKeys)),
            }
        }
        let key = name.zip(digest).zip(rights);
        Ok(key.map(|((name, digest), rights)| ApiKey { name, digest, rights, rooms }))
    }

    fn api_rights(&self, value: &Spanned<DeValue<'_>>) -> Result<ApiRights, ConfigFault> {
        let list = value.get_ref().as_array().ok_or_else(|| self.wrong("rights", value, MUST_RIGHTS))?;
        let right = |text: &str| ApiRights::from_name(text).ok_or_else(|| MUST_RIGHTS.to_owned());
        list.iter().try_fold(ApiRights::NONE, |rights, item| {
            Ok(rights.union(self.text_value("rights", item, MUST_RIGHTS, right)?.value))
        })
    }

    fn api_rooms(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<Pattern>, ConfigFault> {
        let list = value.get_ref().as_array().ok_or_else(|| self.wrong("rooms", value, MUST_ROOMS))?;
        list.iter().map(|item| Ok(self.text_value("rooms", item, MUST_ROOMS, parse_rooms)?.value)).collect()
    }
}

fn parse_socket(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err(MUST_SOCKET.to_owned()) } else { Ok(text.into()) }
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_name = (1..=API_KEY_NAME_CHARS_MAX).contains(&text.chars().count()) && !text.contains(char::is_control);
    if is_name { Ok(text.to_owned()) } else { Err(MUST_NAME.to_owned()) }
}

fn parse_sha256(text: &str) -> Result<[u8; DIGEST_BYTES], String> {
    parse_digest(text).ok_or_else(|| MUST_DIGEST.to_owned())
}

fn parse_rooms(text: &str) -> Result<Pattern, String> {
    match Pattern::new(text) {
        Ok(pattern) if !text.contains(OWN_NAME) => Ok(pattern),
        _ => Err(MUST_ROOMS.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, fault};
    use super::*;

    const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn with_key(key: &str) -> String {
        format!("[admin]\nlisten = '127.0.0.1:0'\n[[admin.keys]]\n{key}\n")
    }

    #[test]
    fn a_key_says_who_may_do_what_where() {
        let text =
            with_key(&format!("name = 'shop'\nsha256 = '{DIGEST}'\nrights = ['post', 'read']\nrooms = ['game-*']"));
        let admin = config(&text).unwrap().admin.unwrap();
        assert_eq!(admin.api_requests_per_second_max, DEFAULT_API_REQUESTS_PER_SECOND_MAX);
        let key = &admin.keys[0];
        assert!(key.rights.contains(ApiRights::READ) && !key.rights.contains(ApiRights::OPERATE));
        assert!(key.covers("game-1") && !key.covers("lobby"));
        let first = config(&text).unwrap();
        assert_eq!(config(&first.to_toml().unwrap()).unwrap(), first, "a printed configuration gives itself back");
    }

    #[test]
    fn a_key_that_may_do_nothing_of_what_it_says_is_told() {
        let warnings =
            |key: &str| config(&with_key(&format!("name = 'shop'\nsha256 = '{DIGEST}'\n{key}"))).unwrap().warnings();
        for (key, says) in [
            ("rights = []", "it has no `rights`"),
            ("rights = ['operate', 'read']\nrooms = ['game-*']", "of no use to a key of some `rooms` alone"),
        ] {
            let told = warnings(key);
            assert!(told.len() == 1 && told[0].contains(says) && told[0].contains("\"shop\""), "{key}: {told:?}");
        }
        for key in ["rights = ['operate']", "rights = ['read', 'post']\nrooms = ['game-*']"] {
            assert!(warnings(key).is_empty(), "{key}");
        }
    }

    #[test]
    fn without_a_word_there_is_no_interface_and_a_socket_needs_no_key() {
        assert_eq!(config("").unwrap().admin, None);
        let admin = config("[admin]\nsocket = 'a.sock'").unwrap().admin.unwrap();
        assert_eq!((admin.listen, admin.keys.len(), admin.socket), (None, 0, Some("a.sock".into())));
    }

    #[test]
    fn what_would_let_in_nobody_or_anybody_is_refused() {
        let good = format!("name = 'a'\nsha256 = '{DIGEST}'\nrights = ['post']\n");
        for (text, says) in [
            ("[admin]\n".to_owned(), "says neither listen"),
            ("[admin]\nlisten = '127.0.0.1:0'".to_owned(), "nobody has a key"),
            ("admin = 1".to_owned(), "admin must be a table"),
            (with_key("name = 'a'"), "needs name, sha256 and rights"),
            (with_key(&good.replace("post", "rule")), "rights must be a list of \"post\""),
            (with_key(&good.replace(DIGEST, "abc")), "sha256 must be the SHA-256"),
            (with_key(&format!("{good}rooms = ['inbox-{{user}}']")), "rooms must be a list"),
            (
                with_key(&format!("{good}room = ['a']")),
                "unknown key \"room\" in [[admin.keys]]: did you mean \"rooms\"?",
            ),
            (with_key(&format!("{good}[[admin.keys]]\n{good}")), "two entries of [[admin.keys]]"),
        ] {
            assert!(fault(&text).contains(says), "{text}: {}", fault(&text));
        }
    }
}
