//! `product`: what is ordered. It can be told to fail: `POST /fail?on` and `POST /fail?off`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use http::{Method, StatusCode};
use serde_json::json;

use crate::serve::{Answer, Call, Service, not_found};

pub struct Product {
    version: String,
    instance: String,
    failing: AtomicBool,
    served: AtomicU64,
}

impl Product {
    pub fn new(version: String, instance: String) -> Self {
        Product { version, instance, failing: AtomicBool::new(false), served: AtomicU64::new(0) }
    }
}

impl Service for Product {
    async fn answer(&self, call: Call) -> Answer {
        if call.path == "/fail" && call.method == Method::POST {
            self.failing.store(call.query != "off", Relaxed);
            return (StatusCode::OK, json!({"failing": call.query != "off", "served": self.served.load(Relaxed)}));
        }
        let Some(name) = call.path.strip_prefix("/products/").filter(|n| !n.is_empty()) else {
            return not_found(&call);
        };
        self.served.fetch_add(1, Relaxed);
        if self.failing.load(Relaxed) {
            return (StatusCode::SERVICE_UNAVAILABLE, json!({"error": "told to fail", "instance": self.instance}));
        }
        (StatusCode::OK, json!({"name": name, "price": 42, "version": self.version, "instance": self.instance}))
    }
}
