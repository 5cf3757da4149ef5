//! `user`: who orders.

use http::StatusCode;
use serde_json::json;

use crate::serve::{Answer, Call, Service, not_found};

pub struct User;

impl Service for User {
    async fn answer(&self, call: Call) -> Answer {
        match call.path.strip_prefix("/users/") {
            Some(name) if !name.is_empty() => (StatusCode::OK, json!({"name": name, "city": "Lisbon"})),
            _ => not_found(&call),
        }
    }
}
