//! What the HTTP side answers: the page, health, and who may upgrade to a WebSocket and to which form.

use std::fmt;
use std::net::IpAddr;

use banter_access::gate::Refused;
use banter_access::limit::Limit;
use banter_chat::orders::CLOSE_REVOKED;
use banter_protocol::credentials::refuse_token_in_query;
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::event::Event;
use banter_protocol::http::{HttpFault, HttpRequest, Upgrade, write_response, write_upgrade_response};
use banter_protocol::wire::{SUBPROTOCOL_JSON, SUBPROTOCOL_RKYV, WireForm};

use crate::control::Question;
use crate::core::doorway::{Doorway, UpgradeFault};

/// The chat page, as one file.
const PAGE: &str = include_str!("../../page/index.html");
/// Where it is told how it gets in, once; as a file it says that of a server that asks for nothing.
const PAGE_DOOR: &str = "data-door=\"open\"";

/// What who comes from a revoked address is told.
pub const REVOKED: &str = "your address is revoked";

/// What a request is answered.
#[derive(Debug)]
pub enum HttpAnswer {
    /// These bytes, and the connection ends.
    Response(Vec<u8>),
    /// These bytes, and WebSocket frames of that form follow; with the token that came along.
    Upgrade(WireForm, Vec<u8>, Option<Carried>),
    /// A web page of a foreign origin asked: these bytes, and the connection ends.
    Foreign(Vec<u8>),
    /// What the cores say, who are still to be asked.
    Asked {
        /// What is asked.
        question: Question,
        /// Without a body.
        head_only: bool,
    },
}

/// A token on its way from the upgrade to `hello`. It shows itself nowhere.
pub struct Carried(pub Box<str>);

impl fmt::Debug for Carried {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Carried")
    }
}

/// Why a new connection gets no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwelcome {
    /// A limit is reached.
    Limited(Refused),
    /// Its address is revoked.
    Revoked,
    /// The server is stopping.
    Draining,
}

/// Answers a request that comes from that address. Who has too many connections gets nothing at all.
pub fn answer(
    request: &HttpRequest<'_>,
    address: IpAddr,
    unwelcome: Option<Unwelcome>,
    doorway: &mut Doorway,
) -> HttpAnswer {
    let head_only = request.method == "HEAD";
    if let Some(refusal) = unwelcome.and_then(|why| refuse_plainly(why, request, head_only)) {
        return HttpAnswer::Response(refusal);
    }
    let text = |status, body: &str| HttpAnswer::Response(text(status, body, head_only));
    let asked = |question| HttpAnswer::Asked { question, head_only };
    if request.method != "GET" && !head_only {
        return HttpAnswer::Response(refuse_method());
    }
    if let Err(fault) = refuse_token_in_query(request) {
        return text(400, &format!("{fault}\n"));
    }
    match request.path {
        "/healthz" => asked(Question::Health),
        "/readyz" => asked(Question::Readiness),
        "/metrics" if doorway.has_metrics() => asked(Question::Metrics),
        "/metrics" => text(404, "not found: [admin] is on, and has it as /v1/metrics\n"),
        "/" if doorway.has_page() => HttpAnswer::Response(page(doorway.page_door(), head_only)),
        "/ws" => match request.upgrade {
            None => text(426, "/ws speaks WebSocket: connect with a WebSocket client\n"),
            Some(upgrade) => match doorway.judge(request, address) {
                Ok(token) => answer_upgrade(&upgrade, token, unwelcome),
                Err(fault) => refuse_upgrade(fault),
            },
        },
        _ => text(404, "not found: there is /ws, /healthz, /readyz and /metrics\n"),
    }
}

/// The chat page, which asks for what the server asks for.
fn page(door: &str, head_only: bool) -> Vec<u8> {
    let page = PAGE.replacen(PAGE_DOOR, &format!("data-door=\"{door}\""), 1);
    respond(200, "text/html; charset=utf-8", page.as_bytes(), head_only)
}

/// What who is turned away is told in plain HTTP; none where it is told behind the upgrade, or may ask all the same.
fn refuse_plainly(why: Unwelcome, request: &HttpRequest<'_>, head_only: bool) -> Option<Vec<u8>> {
    let is_plain = request.upgrade.is_none();
    match why {
        Unwelcome::Limited(refused) if refused.limit.scope() == Scope::Ip => {
            let is_told_by_status = is_plain || refused.limit == Limit::AuthFailuresPerIp;
            is_told_by_status.then(|| refuse_too_many(refused, head_only))
        }
        Unwelcome::Revoked => is_plain.then(|| text(403, &format!("{REVOKED}\n"), head_only)),
        Unwelcome::Limited(_) | Unwelcome::Draining => None,
    }
}

fn refuse_upgrade(fault: UpgradeFault) -> HttpAnswer {
    let body = format!("{fault}\n");
    match fault {
        UpgradeFault::Origin(_) => HttpAnswer::Foreign(text(403, &body, false)),
        UpgradeFault::Credentials(_) => HttpAnswer::Response(text(400, &body, false)),
    }
}

fn answer_upgrade(upgrade: &Upgrade<'_>, token: Option<&str>, unwelcome: Option<Unwelcome>) -> HttpAnswer {
    let chosen = upgrade.subprotocols.iter().find_map(|offered| match offered {
        SUBPROTOCOL_JSON => Some((WireForm::Json, SUBPROTOCOL_JSON)),
        SUBPROTOCOL_RKYV => Some((WireForm::WebSocketRkyv, SUBPROTOCOL_RKYV)),
        _ => None,
    });
    let mut response = Vec::with_capacity(256);
    write_upgrade_response(&mut response, upgrade.key, chosen.map(|(_, name)| name));
    let form = chosen.map_or(WireForm::Json, |(form, _)| form);
    match unwelcome {
        None => HttpAnswer::Upgrade(form, response, token.map(|token| Carried(token.into()))),
        Some(why) => {
            refuse(why, form, &mut response);
            HttpAnswer::Response(response)
        }
    }
}

/// The answer to a head that cannot be read.
pub fn refuse_head(fault: &HttpFault) -> Vec<u8> {
    let mut response = Vec::new();
    let body = format!("{fault}\n");
    let kind = "text/plain; charset=utf-8";
    write_response(&mut response, fault.status(), kind, fault.headers(), body.as_bytes(), false, false);
    response
}

/// The answer to a method that nothing here has.
fn refuse_method() -> Vec<u8> {
    let mut response = Vec::new();
    let body = b"only GET and HEAD are answered here\n";
    write_response(&mut response, 405, "text/plain; charset=utf-8", &[("Allow", "GET, HEAD")], body, false, false);
    response
}

/// The answer to somebody whose address has too much.
fn refuse_too_many(refused: Refused, head_only: bool) -> Vec<u8> {
    let Refused { limit, retry_after_ms } = refused;
    let seconds = retry_after_ms.div_ceil(1_000).to_string();
    let (code, scope) = (ErrorCode::RateLimited.as_str(), limit.scope().as_str());
    let body = format!(
        "{{\"error\":{{\"code\":\"{code}\",\"message\":\"{}\",\"scope\":\"{scope}\",\"retry_after_ms\":{retry_after_ms}}}}}\n",
        reached(refused)
    );
    let mut response = Vec::with_capacity(body.len() + 256);
    let headers = [("Retry-After", &*seconds), ("Cache-Control", "no-store")];
    write_response(&mut response, 429, "application/json", &headers, body.as_bytes(), head_only, false);
    response
}

/// For people: which limit is reached.
fn reached(refused: Refused) -> String {
    format!("{} is reached", refused.limit.name())
}

/// The answer to a handshake that took too long.
pub fn refuse_slow() -> Vec<u8> {
    respond(408, "text/plain; charset=utf-8", b"the request did not come within handshake_timeout_ms\n", false)
}

/// Tells a newcomer why it gets no further, and closes. On WebSocket behind the upgrade: a browser shows its page
/// neither the status nor the body of a refused one.
pub fn refuse(why: Unwelcome, form: WireForm, out: &mut Vec<u8>) {
    const RETRY_AFTER_MS: u64 = 1_000;
    match why {
        Unwelcome::Limited(refused) => {
            let (message, retry_after_ms) = (&*reached(refused), Some(refused.retry_after_ms));
            let scope = refused.limit.scope();
            let code = if scope == Scope::Server { ErrorCode::Overloaded } else { ErrorCode::RateLimited };
            form.write_event(
                &Event::Error { id: None, code, message, retry_after_ms, scope: Some(scope), reason: None },
                out,
            );
            form.write_close(1013, message, out);
        }
        Unwelcome::Revoked => {
            let (code, message) = (ErrorCode::Revoked, REVOKED);
            form.write_event(
                &Event::Error { id: None, code, message, retry_after_ms: None, scope: Some(Scope::Ip), reason: None },
                out,
            );
            form.write_close(CLOSE_REVOKED, "revoked", out);
        }
        Unwelcome::Draining => {
            let closing = Event::Closing { code: ErrorCode::Draining, reconnect_after_ms: RETRY_AFTER_MS };
            form.write_event(&closing, out);
            form.write_close(1001, "draining", out);
        }
    }
}

/// A plain answer.
pub fn text(status: u16, body: &str, head_only: bool) -> Vec<u8> {
    respond(status, "text/plain; charset=utf-8", body.as_bytes(), head_only)
}

/// The answer to `/metrics`.
pub fn metrics(text: &str, head_only: bool) -> Vec<u8> {
    respond(200, "text/plain; version=0.0.4; charset=utf-8", text.as_bytes(), head_only)
}

fn respond(status: u16, kind: &str, body: &[u8], head_only: bool) -> Vec<u8> {
    let mut response = Vec::with_capacity(body.len() + 256);
    let headers = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")];
    write_response(&mut response, status, kind, &headers, body, head_only, false);
    response
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use banter_protocol::http::{Head, parse_head};

    use super::*;
    use crate::core::doorway::UpgradeRule;

    fn answer_to(head: &str, unwelcome: Option<Unwelcome>) -> HttpAnswer {
        match parse_head(head.as_bytes()) {
            Ok(Head::Complete { request, .. }) => {
                answer(&request, Ipv4Addr::LOCALHOST.into(), unwelcome, &mut Doorway::new(UpgradeRule::default()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_method_that_is_not_answered_is_told_those_that_are() {
        let HttpAnswer::Response(bytes) = answer_to("PUT /healthz HTTP/1.1\r\nHost: h\r\n\r\n", None) else {
            panic!("a response");
        };
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.starts_with("HTTP/1.1 405 ") && text.contains("\r\nAllow: GET, HEAD\r\n"), "{text}");
    }

    #[test]
    fn the_page_is_told_once_how_it_gets_in() {
        assert_eq!(PAGE.matches(PAGE_DOOR).count(), 1);
        for (takes_tokens, takes_guests, door) in
            [(false, false, "open"), (true, false, "token"), (true, true, "guests")]
        {
            let doorway = Doorway::new(UpgradeRule { takes_tokens, takes_guests, ..UpgradeRule::default() });
            let text = String::from_utf8(page(doorway.page_door(), false)).expect("text");
            assert_eq!(text.matches(&format!("data-door=\"{door}\"")).count(), 1);
            assert!(text.ends_with(&PAGE[PAGE.len() - 100..]));
        }
    }

    #[test]
    fn questions_about_the_server_are_asked_of_all_cores_also_while_it_drains() {
        for (path, due) in
            [("/healthz", Question::Health), ("/readyz", Question::Readiness), ("/metrics", Question::Metrics)]
        {
            let full = Unwelcome::Limited(Refused { limit: Limit::Connections, retry_after_ms: 1 });
            for unwelcome in [None, Some(Unwelcome::Draining), Some(full)] {
                let answer = answer_to(&format!("HEAD {path} HTTP/1.1\r\nHost: h\r\n\r\n"), unwelcome);
                let is_due = matches!(answer, HttpAnswer::Asked { question, head_only: true } if question == due);
                assert!(is_due, "{path}: {answer:?}");
            }
        }
    }
}
