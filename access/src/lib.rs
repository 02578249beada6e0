//! Who may come in and what they may do there, pure: tokens, rights, revocations, limits by address.
//!
//! ```text
//! token ─judge─▶ Proof (user, until when, grants) ─┐
//! [[rooms]] ──────────────▶ RoomDefaults ──────────┼─ union ─ minus marks ─▶ Rights in a room
//! token of one room ─judge─▶ Proof ────────────────┘
//! Revocations ─ of a user, a session, a token, an address ─▶ may this Proof, this address still be here?
//! Gate ─ limits by address, Buckets bounded ─▶ may this address come in, or when?
//! ```
//!
//! # Invariants
//!
//! - Nothing in a token is believed before its signature was checked, except which key to check it with.
//! - The key decides the algorithm. A claim that is there in a wrong form is an error and never counts as absent.
//! - Rights are only ever united, and marks taken away at the end, so that no order of sources or patterns matters.
//! - Everything that a peer can make grow has a limit with a name.
//!
//! # What is not here
//!
//! No clock (time comes in), no socket, no file, no thread, no randomness but what making an ECDSA signature needs.

#![forbid(unsafe_code)]

pub mod address;
pub mod api_key;
pub mod bucket;
pub mod claims;
pub mod gate;
pub mod grants;
pub mod guest;
mod json;
pub mod jwks;
pub mod keys;
pub mod limit;
pub mod mint;
pub mod pattern;
pub mod proof;
pub mod revocation;
pub mod rights;
pub mod self_test;
pub mod token;
