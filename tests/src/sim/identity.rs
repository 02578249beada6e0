//! Who the clients of the simulated world are: tokens that are issued, end, are renewed and revoked, and rights that change; and
//! what each connection may do by them, as a second opinion beside the server's.
//!
//! What counts is when something takes effect on a connection's core: a number that grows with every request that is handed in
//! and with every change, a *moment*. A message that was asked for behind the moment at which somebody lost `read` had not left its
//! room's core before, so it may never reach him.
//!
//! What a connection has for certain is kept apart from the most that it may have: whether the token for a room was taken is
//! known to the server alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use banter_access::grants::{RoomDefault, RoomDefaults};
use banter_access::guest::{GUEST_SEED_BYTES, GuestSeed};
use banter_access::keys::Keys;
use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::proof::Proof;
use banter_access::revocation::{Revocation, Subject};
use banter_access::rights::Rights;
use banter_access::token::{Rules, judge};
use banter_chat::access::{Access, TokenAccess};
use banter_chat::proving::{NotProved, Proving, Purpose};
use banter_protocol::ids::UserName;
use banter_protocol::request::{Ask, JoinFrom};

use crate::seeded::Seeded;

/// Of sixteen seeds, those whose server asks for tokens; none that has a name for something else is among them.
const SEEDS_WITH_TOKENS: [u64; 4] = [1, 7, 9, 13];
/// Of those, the ones that let guests in; none that has a name is among them.
const SEEDS_WITH_GUESTS: u64 = 9;
/// Of sixteen seeds, those of them whose server lets a user have one connection; without chance, so that others stay as they were.
const SEEDS_WITH_ONE_CONNECTION: [u64; 1] = [9];
/// Tells the chance of identities from that of everything else, which stays as it was.
const SEED_OF_IDENTITIES: u64 = 0x1d;
/// By how much clocks may differ, in seconds.
const LEEWAY_S: u64 = 1;
/// From a token's end to that of its connection.
const GRACE_MS: u64 = 500;
/// Longer than any seed takes, in seconds.
const LONG_S: u64 = 80_000;
/// Behind whatever the wall clock may step to, in seconds since 1970.
const NEVER_S: u64 = 200_000_000_000;
const SECRET: &[u8] = b"the simulated world's own secret of more than 32 bytes";

/// What a token was issued with.
#[derive(Clone, Debug)]
struct Token {
    user: String,
    rights: Vec<Rights>,
    issued_s: u64,
    ends_s: u64,
    id: String,
    session: String,
}

/// What a request has to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    /// A right is missing, or its token has ended.
    BeRefused,
    /// It has everything that it takes: no refusal for a right.
    BeAllowed,
    /// It depends on what the server alone knows.
    BeEither,
}

/// A connection as its core has to know it.
#[derive(Clone, Debug)]
pub struct Standing {
    user: String,
    token: Option<usize>,
    /// It came in without one.
    is_guest: bool,
    room_tokens: BTreeMap<usize, usize>,
    rooms: Vec<InRoom>,
    /// Since when it has to be on its way out.
    pub ended: Option<u64>,
}

/// What it may do in a room.
#[derive(Clone, Copy, Debug, Default)]
pub struct InRoom {
    sure: Rights,
    most: Rights,
    /// Since when it has no `read` for certain, and no `history`.
    pub unread_since: Option<u64>,
    /// See `unread_since`.
    pub closed_since: Option<u64>,
    /// When it lost anything last.
    pub shrunk: u64,
    /// When its user was taken out of the room last.
    pub kicked: u64,
}

/// What a core was told.
#[derive(Clone, Debug, Default)]
struct CoreView {
    defaults: Vec<Rights>,
    revoked: Vec<(Subject, Option<u64>)>,
    sockets: HashMap<(u32, u32), Standing>,
}

/// An order of the world's operator to a core.
#[derive(Clone, Debug)]
pub enum Order {
    /// What everybody may do in each room.
    Defaults(Vec<Rights>),
    /// Of a subject's tokens, those that were made up to that second, or all.
    Revoke(Subject, Option<u64>),
    /// A user out of a room.
    Kick(usize, String),
    /// All connections of a user.
    Disconnect(String),
}

/// Everything about identities.
pub struct Identities {
    /// Where all chance of theirs comes from.
    pub chance: Seeded,
    rooms: usize,
    takes_guests: bool,
    /// Servers that were started.
    runs: u8,
    /// What guests were called, the ones that are gone among them.
    guests: Vec<String>,
    key: SigningKey,
    keys: Keys,
    tokens: Vec<Token>,
    by_text: HashMap<Box<str>, usize>,
    defaults: Vec<Rights>,
    revoked: Vec<(Subject, Option<u64>)>,
    cores: Vec<CoreView>,
    /// See the module.
    pub moment: u64,
}

impl Identities {
    /// Those of a seed's world, if its server asks for tokens.
    pub fn of(seed: u64, rooms: usize) -> Option<Self> {
        let mut keys = Keys::new();
        keys.add_secret(SECRET, None).expect("a secret");
        let mut chance = Seeded::new(seed ^ SEED_OF_IDENTITIES.rotate_left(32));
        let defaults = defaults(rooms, &mut chance);
        SEEDS_WITH_TOKENS.contains(&(seed % 16)).then(|| Identities {
            chance,
            rooms,
            takes_guests: seed % 16 == SEEDS_WITH_GUESTS,
            runs: 0,
            guests: Vec::new(),
            key: SigningKey::from_secret(SECRET).expect("a secret"),
            keys,
            tokens: Vec::new(),
            by_text: HashMap::new(),
            defaults,
            revoked: Vec::new(),
            cores: Vec::new(),
            moment: 0,
        })
    }

    /// How many connections a user may have in a seed's world; 0 = any number.
    pub fn connections_per_user_max(seed: u64) -> u32 {
        u32::from(SEEDS_WITH_ONE_CONNECTION.contains(&(seed % 16)))
    }

    /// A server starts: it is told everything that holds.
    pub fn start(&mut self, cores: usize) -> Vec<(Subject, Option<u64>)> {
        let view = CoreView { defaults: self.defaults.clone(), revoked: self.revoked.clone(), ..CoreView::default() };
        self.cores = vec![view; cores];
        self.revoked.clone()
    }

    /// What the configuration of a server that starts says. As in the real one, no guest is called as one was in another run.
    pub fn access(&mut self) -> Access {
        self.runs = self.runs.wrapping_add(1);
        access(&self.defaults, self.guest_seed())
    }

    /// The same as a core was told it last.
    pub fn access_on(&self, core: usize) -> Access {
        access(&self.cores[core].defaults, self.guest_seed())
    }

    fn guest_seed(&self) -> Option<GuestSeed> {
        self.takes_guests.then_some(GuestSeed::new([self.runs; GUEST_SEED_BYTES]))
    }

    fn rules() -> Rules {
        Rules { leeway_seconds: LEEWAY_S, ..Rules::default() }
    }

    /// A new token of a user: mostly short, with rights by chance; `all`: long, and with every right.
    pub fn issue(&mut self, user: &str, now_s: u64, all: bool) -> String {
        let seconds = if all { LONG_S } else { *self.chance.pick(&[1, 2, 3, 8, 60]) };
        let kinds = [Rights::MEMBER, Rights::MEMBER, Rights::MEMBER, Rights::READ, Rights::NONE];
        let wide = Rights::READ | Rights::WRITE | Rights::HISTORY;
        let mixed = Rights::from_bits(self.chance.number() as u16) | Rights::READ;
        let right = |chance: &mut Seeded| if chance.once_in(6) { mixed } else { *chance.pick(&kinds) };
        let rights = (0..self.rooms).map(|_| {
            if all {
                Rights::MEMBER
            } else {
                right(&mut self.chance) | if self.chance.once_in(9) { wide } else { Rights::NONE }
            }
        });
        let rights = rights.collect();
        let session = format!("session-{}", self.chance.below(1 + self.tokens.len() / 3));
        let id = format!("token-{}", self.tokens.len());
        // A user whose tokens were revoked waits for the next second, or its maker's clock is ahead.
        let issued_s = now_s + u64::from(all || self.chance.once_in(3));
        self.mint(Token { user: user.to_owned(), rights, issued_s, ends_s: issued_s + seconds, id, session })
    }

    /// A token of a user for one room.
    pub fn issue_for_room(&mut self, user: &str, room: &str, now_s: u64) -> String {
        let room = room_number(room);
        let mut rights = vec![Rights::NONE; self.rooms];
        rights[room] = if self.chance.once_in(4) { Rights::READ } else { Rights::MEMBER };
        let seconds = *self.chance.pick(&[1, 1, 2, 60]);
        let (id, session) = (format!("token-{}", self.tokens.len()), "of rooms".to_owned());
        self.mint(Token { user: user.to_owned(), rights, issued_s: now_s, ends_s: now_s + seconds, id, session })
    }

    fn mint(&mut self, token: Token) -> String {
        let pattern = |room: usize| Pattern::new(&format!("room-{room}")).expect("a pattern");
        let rooms = token.rights.iter().enumerate().map(|(room, &rights)| (pattern(room), rights)).collect();
        let (token_id, session) = (Some(token.id.clone()), Some(token.session.clone()));
        let times = ClaimsToMint::new(&token.user, token.issued_s, token.ends_s);
        let text = mint(&self.key, &ClaimsToMint { rooms, token_id, session, ..times }).expect("a token");
        self.by_text.insert(text.as_str().into(), self.tokens.len());
        self.tokens.push(token);
        text
    }

    /// A token that the user had before.
    pub fn token_of(&mut self, user: &str) -> Option<String> {
        let number = self.tokens.iter().position(|token| token.user == user)?;
        self.text_of(number)
    }

    fn text_of(&self, number: usize) -> Option<String> {
        self.by_text.iter().find(|(_, of)| **of == number).map(|(text, _)| text.to_string())
    }

    /// A token that somebody has already, of whomever.
    pub fn any_token(&mut self) -> Option<String> {
        let number = self.chance.below(self.tokens.len());
        self.text_of(number)
    }

    /// The thread that judges tokens.
    ///
    /// # Errors
    /// As it would say.
    pub fn judge(&mut self, token: &str, now_s: u64) -> Result<Arc<Proof>, NotProved> {
        if self.chance.once_in(20) {
            return Err(NotProved::Unavailable);
        }
        let refused = |why: banter_access::token::Refusal| match why {
            banter_access::token::Refusal::Expired { .. } => NotProved::Expired(why.to_string()),
            why => NotProved::Refused(why.to_string()),
        };
        judge(token, &self.keys, &Self::rules(), now_s).map(Arc::new).map_err(refused)
    }

    /// A connection is there.
    pub fn connected(&mut self, core: usize, id: (u32, u32), user: &str) {
        let rooms = vec![InRoom { unread_since: Some(0), closed_since: Some(0), ..InRoom::default() }; self.rooms];
        let standing = Standing {
            user: user.to_owned(),
            token: None,
            is_guest: false,
            room_tokens: BTreeMap::new(),
            rooms,
            ended: None,
        };
        self.cores[core].sockets.insert(id, standing);
    }

    /// Whether a client comes in as a guest this time.
    pub fn is_guest_next(&mut self) -> bool {
        self.takes_guests && self.chance.once_in(3)
    }

    /// A connection came in without a token, and is called that.
    pub fn came_as_guest(&mut self, core: usize, id: (u32, u32), name: &str) {
        if let Some(standing) = self.cores[core].sockets.get_mut(&id) {
            assert!(!self.guests.iter().any(|other| other == name), "{name} is two guests' name");
            self.guests.push(name.to_owned());
            (standing.user, standing.is_guest) = (name.to_owned(), true);
        }
    }

    /// How a connection stands.
    pub fn standing(&self, core: usize, id: (u32, u32)) -> Option<&Standing> {
        self.cores.get(core)?.sockets.get(&id)
    }

    /// A verdict reaches a connection's core. Says what the request that brought the token has to be answered.
    pub fn verdict(
        &mut self,
        core: usize,
        proving: &Proving,
        (is_proved, is_draining): (bool, bool),
        now_ms: u64,
    ) -> Must {
        self.moment += 1;
        let number = self.by_text[&proving.token];
        let token = &self.tokens[number];
        let is_revoked = self.cores[core].is_revoked(token);
        let id = (proving.connection.slot, proving.connection.generation);
        let Some(standing) = self.cores[core].sockets.get_mut(&id) else { return Must::BeEither };
        let is_own = token.user == standing.user;
        let is_for_room = matches!(proving.purpose, Purpose::Join(_));
        if !is_proved || !is_own {
            return Must::BeRefused;
        }
        if is_revoked {
            if !is_for_room {
                standing.ended.get_or_insert(self.moment);
            }
            return Must::BeRefused;
        }
        match &proving.purpose {
            Purpose::Join(wish) => {
                let room = room_number(wish.room.as_str());
                let rights = standing.rooms[room].sure | token.rights[room];
                let is_ended = standing.token.is_none_or(|number| self.tokens[number].is_ended(now_ms));
                if is_ended || !rights.contains(join_needs(wish.from, wish.presence)) {
                    return Must::BeRefused;
                }
                if !is_draining {
                    standing.room_tokens.insert(room, number);
                }
                Must::BeEither
            }
            Purpose::Hello { .. } | Purpose::Renew => {
                standing.token = Some(number);
                Must::BeAllowed
            }
        }
    }

    /// An order reaches a core.
    pub fn take_order(&mut self, core: usize, order: &Order) {
        self.moment += 1;
        let (moment, tokens) = (self.moment, &self.tokens);
        let view = &mut self.cores[core];
        match order {
            Order::Defaults(defaults) => view.defaults.clone_from(defaults),
            Order::Revoke(subject, issued_before_s) => {
                view.revoked.push((subject.clone(), *issued_before_s));
                let is_revoked = |number: usize| names(subject, *issued_before_s, &tokens[number]);
                for standing in view.sockets.values_mut() {
                    standing.room_tokens.retain(|_, number| !is_revoked(*number));
                    if standing.token.is_some_and(is_revoked) || standing.is_guest_of(subject) {
                        standing.ended.get_or_insert(moment);
                    }
                }
            }
            Order::Kick(room, user) => {
                let of_user = view.sockets.values_mut().filter(|standing| standing.user == *user);
                of_user.for_each(|standing| standing.rooms[*room].kicked = moment);
            }
            Order::Disconnect(user) => {
                let of_user = view.sockets.values_mut().filter(|one| one.user == *user && one.is_known());
                for standing in of_user {
                    standing.ended.get_or_insert(moment);
                }
            }
        }
    }

    /// What came to a core until now holds.
    pub fn settle_rights(&mut self, core: usize, now_ms: u64) {
        self.moment += 1;
        let CoreView { defaults, sockets, .. } = &mut self.cores[core];
        for standing in sockets.values_mut() {
            standing.room_tokens.retain(|_, number| !self.tokens[*number].is_ended(now_ms));
            let token = standing.token.map(|number| &self.tokens[number]);
            if token.is_none() && !standing.is_guest {
                continue;
            }
            for (room, there) in standing.rooms.iter_mut().enumerate() {
                let sure = token.map_or_else(|| of_guests(defaults, room), |token| token.rights[room] | defaults[room]);
                let of_room =
                    standing.room_tokens.get(&room).map_or(Rights::NONE, |&number| self.tokens[number].rights[room]);
                there.holds(sure, sure | of_room, self.moment);
            }
        }
    }

    /// A request is handed in: what it has to be answered, as far as rights go.
    pub fn expect(&mut self, core: usize, id: (u32, u32), ask: &Ask<'_>, now_ms: u64) -> Must {
        self.moment += 1;
        let tokens = &self.tokens;
        let Some(standing) = self.cores[core].sockets.get_mut(&id) else { return Must::BeEither };
        let shows_token = matches!(ask, Ask::Renew { .. } | Ask::Join { token: Some(_), .. });
        if standing.is_guest && shows_token {
            return Must::BeRefused;
        }
        let Some((room, needed)) = needs(ask) else { return Must::BeEither };
        match standing.token.map(|number| &tokens[number]) {
            Some(token) if token.is_ended(now_ms) => return Must::BeRefused,
            None if !standing.is_guest => return Must::BeEither,
            Some(_) | None => {}
        }
        // What a token of its own gives counts when it was judged.
        let waits = matches!(ask, Ask::Join { token: Some(_), .. });
        let there = standing.rooms[room];
        match (there.most.contains(needed), there.sure.contains(needed)) {
            _ if waits => Must::BeEither,
            (false, _) => Must::BeRefused,
            (true, true) => Must::BeAllowed,
            (true, false) => Must::BeEither,
        }
    }

    /// A `leave` is handed in: the room's own token goes with the reading.
    pub fn leaves(&mut self, core: usize, id: (u32, u32), room: &str) {
        if let Some(standing) = self.cores[core].sockets.get_mut(&id) {
            standing.room_tokens.remove(&room_number(room));
        }
    }

    /// What the operator does next, by chance; it is told to every core.
    pub fn order(&mut self, users: usize, now_s: u64) -> Option<Order> {
        let of_guest = self.takes_guests && !self.guests.is_empty() && self.chance.once_in(3);
        let user = if of_guest {
            self.chance.pick(&self.guests).clone()
        } else {
            format!("user-{}", self.chance.below(users))
        };
        match self.chance.below(150) {
            0..=2 => {
                self.defaults = defaults(self.rooms, &mut self.chance);
                Some(Order::Defaults(self.defaults.clone()))
            }
            3 => {
                let issued_before_s = self.chance.once_in(2).then_some(now_s);
                let token = self.tokens.get(self.chance.below(self.tokens.len()))?;
                let subject = match self.chance.below(3) {
                    0 => Subject::Session(token.session.as_str().into()),
                    1 => Subject::Token(token.id.as_str().into()),
                    // A user that is revoked for good is nobody any more.
                    _ => {
                        let user = Subject::User(UserName::new(&user).expect("a name"));
                        self.revoked.push((user.clone(), Some(now_s)));
                        return Some(Order::Revoke(user, Some(now_s)));
                    }
                };
                self.revoked.push((subject.clone(), issued_before_s));
                Some(Order::Revoke(subject, issued_before_s))
            }
            4 | 5 => Some(Order::Kick(self.chance.below(self.rooms), user)),
            6 => Some(Order::Disconnect(user)),
            _ => None,
        }
    }
}

impl Token {
    fn is_ended(&self, now_ms: u64) -> bool {
        now_ms >= (self.ends_s + LEEWAY_S) * 1_000
    }
}

impl CoreView {
    fn is_revoked(&self, token: &Token) -> bool {
        self.revoked.iter().any(|(subject, issued_before_s)| names(subject, *issued_before_s, token))
    }
}

impl Standing {
    /// Whether it is a guest, and that is one's name.
    fn is_guest_of(&self, subject: &Subject) -> bool {
        self.is_guest && matches!(subject, Subject::User(user) if user.as_str() == self.user)
    }

    /// Whether the server knows who it is.
    fn is_known(&self) -> bool {
        self.is_guest || self.token.is_some()
    }

    /// Whether it may do everything everywhere.
    pub fn may_all(&self) -> bool {
        self.rooms.iter().all(|there| there.sure.contains(Rights::MEMBER))
    }

    /// What it may do in a room.
    pub fn in_room(&self, room: &str) -> InRoom {
        self.rooms[room_number(room)]
    }
}

impl InRoom {
    fn holds(&mut self, sure: Rights, most: Rights, moment: u64) {
        if !sure.contains(self.sure) || !most.contains(self.most) {
            self.shrunk = moment;
        }
        (self.sure, self.most) = (sure, most);
        let since = |before: Option<u64>, right| if most.contains(right) { None } else { before.or(Some(moment)) };
        self.unread_since = since(self.unread_since, Rights::READ);
        self.closed_since = since(self.closed_since, Rights::HISTORY);
    }

    /// Whether it may read, at the most.
    pub fn may_read(&self) -> bool {
        self.most.contains(Rights::READ)
    }
}

/// Whether a revocation is of that token.
fn names(subject: &Subject, issued_before_s: Option<u64>, token: &Token) -> bool {
    let is_named = match subject {
        Subject::User(user) => user.as_str() == token.user,
        Subject::Session(session) => **session == *token.session,
        Subject::Token(id) => **id == *token.id,
        Subject::Address(_) => false,
    };
    is_named && issued_before_s.is_none_or(|before_s| token.issued_s <= before_s)
}

/// A revocation as a shard is told it.
pub fn revocation(subject: &Subject, issued_before_s: Option<u64>) -> Revocation {
    Revocation::new(subject.clone(), issued_before_s, NEVER_S).expect("a revocation")
}

/// The room that a request is about, and what it takes there.
fn needs(ask: &Ask<'_>) -> Option<(usize, Rights)> {
    Some(match ask {
        Ask::Join { room, from, presence, .. } => (room_number(room), join_needs(*from, *presence)),
        Ask::Post { room, .. } => (room_number(room), Rights::WRITE),
        Ask::Signal { room, .. } => (room_number(room), Rights::SIGNAL),
        Ask::Fetch { room, .. } => (room_number(room), Rights::HISTORY),
        Ask::Members { room } => (room_number(room), Rights::PRESENCE),
        Ask::Hello { .. } | Ask::Renew { .. } | Ask::Leave { .. } | Ask::Ping => return None,
    })
}

fn join_needs(from: JoinFrom, presence: bool) -> Rights {
    let history = if matches!(from, JoinFrom::Last(1..)) { Rights::HISTORY } else { Rights::NONE };
    Rights::READ | history | if presence { Rights::PRESENCE } else { Rights::NONE }
}

fn room_number(room: &str) -> usize {
    room.trim_start_matches("room-").parse().expect("a room of the world")
}

fn defaults(rooms: usize, chance: &mut Seeded) -> Vec<Rights> {
    let kinds = [Rights::NONE, Rights::NONE, Rights::READ, Rights::MEMBER, Rights::READ | Rights::HISTORY];
    (0..rooms).map(|_| *chance.pick(&kinds)).collect()
}

/// What guests have where users have that: what those have in the next room.
fn of_guests(defaults: &[Rights], room: usize) -> Rights {
    defaults[(room + 1) % defaults.len()]
}

/// Those rights to every user, room by room.
fn access(defaults: &[Rights], guests: Option<GuestSeed>) -> Access {
    let entry = |(room, &users): (usize, &Rights)| {
        let guests = of_guests(defaults, room);
        (Pattern::new(&format!("room-{room}")).expect("a pattern"), RoomDefault { users, guests })
    };
    let entries = defaults.iter().enumerate().map(entry).collect();
    let defaults = RoomDefaults { entries, otherwise: RoomDefault::CLOSED };
    Access::Token(TokenAccess { defaults, leeway_seconds: LEEWAY_S, grace_ms: GRACE_MS, guests })
}
