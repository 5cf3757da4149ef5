//! `order`: asks `user` and `product`, each at the address it was given.

use http::StatusCode;
use serde_json::json;

use crate::call::get;
use crate::serve::{Answer, Call, Service, not_found};

pub struct Order {
    /// Address and host of the two services it calls.
    pub user: (String, String),
    pub product: (String, String),
}

impl Service for Order {
    async fn answer(&self, call: Call) -> Answer {
        let Some((user, product)) = call.path.strip_prefix("/orders/").and_then(|rest| rest.split_once('/')) else {
            return not_found(&call);
        };
        let user = get(&self.user.0, &self.user.1, &format!("/users/{user}"), &call.headers).await;
        let product = get(&self.product.0, &self.product.1, &format!("/products/{product}"), &call.headers).await;
        match (user, product) {
            (Ok((StatusCode::OK, user)), Ok((StatusCode::OK, product))) => {
                (StatusCode::OK, json!({"user": user, "product": product}))
            }
            (user, product) => (StatusCode::BAD_GATEWAY, json!({"user": told(user), "product": told(product)})),
        }
    }
}

fn told(result: Result<Answer, String>) -> serde_json::Value {
    match result {
        Ok((status, body)) => json!({"status": status.as_u16(), "body": body}),
        Err(error) => json!({"error": error}),
    }
}
