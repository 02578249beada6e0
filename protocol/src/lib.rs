//! Bytes to frames and back: every wire form of Banter, sans-io.
//!
//! ```text
//!  bytes ─▶ Ingress ─▶ Request          Event ─▶ WireForm::write_event ─▶ bytes
//!           │ http       (request.rs)   (event.rs)        │ json.rs
//!           │ websocket                                   │ native.rs (rkyv)
//!           └ frame                                       └ websocket.rs
//! ```
//!
//! Invariants: nothing here blocks, allocates by an announced length, or panics on bytes from outside.

#![forbid(unsafe_code)]

pub mod credentials;
pub mod error_code;
pub mod event;
pub mod fault;
pub mod features;
pub mod forwarded;
pub mod frame;
pub mod http;
pub mod ids;
pub mod ingress;
pub mod json;
pub mod native;
pub mod origin;
pub mod proxy;
pub mod request;
pub mod websocket;
pub mod wire;
