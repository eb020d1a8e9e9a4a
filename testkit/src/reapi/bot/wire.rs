//! Messages of the Remote Workers API (`google.devtools.remoteworkers.v1test2`): the fields that are used, by their numbers.

use crate::reapi::apis::google::protobuf::{Any, Timestamp};
use crate::reapi::apis::google::rpc;
use prost::Message;

/// Status of a bot: takes work.
pub(super) const OK: i32 = 1;

/// States of a lease.
pub(super) const PENDING: i32 = 1;
pub(super) const ACTIVE: i32 = 2;
pub(super) const COMPLETED: i32 = 4;

#[derive(Clone, PartialEq, Message)]
pub(super) struct BotSession {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) bot_id: String,
    #[prost(int32, tag = "3")]
    pub(super) status: i32,
    #[prost(message, optional, tag = "4")]
    pub(super) worker: Option<Worker>,
    #[prost(message, repeated, tag = "5")]
    pub(super) leases: Vec<Lease>,
    #[prost(message, optional, tag = "6")]
    pub(super) expire_time: Option<Timestamp>,
    #[prost(string, tag = "7")]
    pub(super) version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Lease {
    #[prost(int32, tag = "2")]
    pub(super) state: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) status: Option<rpc::Status>,
    #[prost(string, tag = "7")]
    pub(super) id: String,
    #[prost(message, optional, tag = "8")]
    pub(super) payload: Option<Any>,
    #[prost(message, optional, tag = "9")]
    pub(super) result: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Worker {
    #[prost(message, repeated, tag = "1")]
    pub(super) devices: Vec<Device>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Device {
    #[prost(string, tag = "1")]
    pub(super) handle: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) properties: Vec<Property>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Property {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateSession {
    #[prost(string, tag = "1")]
    pub(super) parent: String,
    #[prost(message, optional, tag = "2")]
    pub(super) bot_session: Option<BotSession>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UpdateSession {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) bot_session: Option<BotSession>,
}
