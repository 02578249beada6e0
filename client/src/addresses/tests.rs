use super::*;
use banter_protocol::ids::UserName;

fn addresses(given: &[&str]) -> Addresses {
    let mut options = Options::new(UserName::new("me").unwrap(), 1);
    options.addresses = given.iter().map(|address| (*address).to_owned()).collect();
    Addresses::new(&options)
}

fn refused(now: Duration) -> Lost {
    Lost { now, held: None, wait: Duration::ZERO, wait_here: Duration::ZERO }
}

/// Where the next `count` attempts go if each is refused at once, from the present one on, and when the next one would be.
fn attempts(addresses: &mut Addresses, mut now: Duration, count: usize) -> (Vec<String>, Duration) {
    let mut random = Random::new(1);
    let mut attempt = |addresses: &mut Addresses, now: &mut Duration| {
        let at = addresses.at.clone();
        *now = addresses.lose(&refused(*now), &mut random);
        at
    };
    ((0..count).map(|_| attempt(addresses, &mut now)).collect(), now)
}

#[test]
fn a_first_round_takes_all_that_were_given_in_order_and_without_waiting() {
    let mut all = addresses(&["a:1", "b:1", "a:1", "c:1"]);
    let (first, next) = attempts(&mut all, Duration::ZERO, 2);
    assert_eq!((first, next), (vec!["a:1".to_owned(), "b:1".into()], Duration::ZERO));
    let (rest, next) = attempts(&mut all, Duration::ZERO, 1);
    assert_eq!(rest, ["c:1"]);
    assert!(next > Duration::ZERO && next <= Duration::from_millis(200), "{next:?}");
}

#[test]
fn what_was_told_goes_ahead_of_what_was_given_and_takes_only_the_place_of_what_was_told_before() {
    let mut all = addresses(&["a:1", "b:1"]);
    all.tell("x:1\ny:1\n");
    all.tell("y:1\nb:1\nc:1\n");
    assert_eq!(all.all().collect::<Vec<_>>(), ["y:1", "b:1", "c:1", "a:1"]);
    all.tell("");
    assert_eq!(all.all().collect::<Vec<_>>(), ["a:1", "b:1"]);
}

#[test]
fn what_is_told_is_bounded_and_only_addresses_are_taken() {
    let mut all = addresses(&["a:1"]);
    let long = format!("{}:1", "x".repeat(NODE_BYTES_MAX));
    all.tell(&format!(
        "\nb\nb:\n:1\nb:99999\nb:+1\nu@b:1\nb/ws:1\nb :1\nb?:1\nb#:1\nws://b:1\n{long}\nb:1\n[::1]:7\nb:1\n"
    ));
    assert_eq!(all.told(), ["b:1", "[::1]:7"]);
    all.tell(&(0..100).map(|number| format!("b{number}:1\n")).collect::<String>());
    assert_eq!(all.told().len(), NODES_MAX);
}

#[test]
fn an_owner_that_is_told_anew_is_asked_at_once_but_not_before_the_time_that_it_named_itself() {
    let mut all = addresses(&["a:1", "b:1"]);
    let (mut random, now, second) = (Random::new(3), Duration::from_secs(1), Duration::from_secs(1));
    all.lose(&refused(now), &mut random); // a
    all.lose(&Lost { wait_here: second, ..refused(now) }, &mut random); // b, which stands by
    assert_eq!(all.at(), Some("a:1"), "its wait is the shorter one");
    all.tell("b:1\n");
    let next = all.lose(&Lost { wait_here: 30 * second, ..refused(now) }, &mut random);
    assert_eq!(all.at(), Some("b:1"));
    assert!(next >= now + second && next <= now + second + all.reconnect_first, "{next:?}");
}

#[test]
fn servers_that_tell_of_others_without_end_are_no_way_around_the_waits() {
    let mut all = addresses(&["a:1"]);
    let (mut random, mut now) = (Random::new(1), Duration::ZERO);
    for number in 0..1_000 {
        all.tell(&format!("x{number}:1\n"));
        now = all.lose(&refused(now), &mut random);
    }
    assert!(now > Duration::from_secs(10), "a thousand attempts took {now:?}");
    assert!(all.tried.len() <= NODES_MAX + 2, "{}", all.tried.len());
}

#[test]
fn waits_stay_short_while_an_owner_may_be_looked_for_then_grow_to_the_last_ceiling() {
    let mut all = addresses(&["a:1", "b:1"]);
    let (mut random, mut now, mut asked) = (Random::new(5), Duration::ZERO, [Duration::ZERO; 2]);
    let mut longest = Duration::ZERO;
    for _ in 0..200 {
        let index = usize::from(all.at() == Some("b:1"));
        let gap = now - std::mem::replace(&mut asked[index], now);
        assert!(now > SEARCH || gap <= SEARCH_WAIT_MAX, "{gap:?} at {now:?}");
        assert!(gap <= all.reconnect_max);
        longest = longest.max(gap);
        now = all.lose(&refused(now), &mut random);
    }
    assert!(longest > all.reconnect_max / 2, "{longest:?}");
}

#[test]
fn a_silent_address_is_given_little_time_and_more_each_time_and_the_only_one_all_of_it() {
    assert_eq!(addresses(&["a:1"]).patience(), Duration::from_secs(10));
    let mut all = addresses(&["a:1", "b:1"]);
    let (mut random, mut now) = (Random::new(7), Duration::ZERO);
    assert_eq!(all.patience(), Duration::from_secs(1));
    let patience: Vec<Duration> = (0..100)
        .map(|_| {
            now = all.lose(&refused(now + all.patience()), &mut random);
            all.patience()
        })
        .collect();
    assert_eq!(patience.last(), Some(&Duration::from_secs(10)));
    assert!(patience[..4].iter().all(|patience| *patience == Duration::from_secs(1)), "{patience:?}");
}
