//! The handlers, written once. The including module defines `api`: the model, or the engine.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod deferred;
pub(crate) mod download;
pub(crate) mod echo;
pub(crate) mod frames;
pub(crate) mod http;
pub(crate) mod keyvalue;
pub(crate) mod messages;
pub(crate) mod patient;
pub(crate) mod paused;
pub(crate) mod push;
pub(crate) mod redis;
pub(crate) mod room;
pub(crate) mod stream;

use super::api;
