//! Who may use the admin API: on a loopback port without TLS everybody on this machine, otherwise whoever shows the
//! token in `<data-dir>/admin.token` as `authorization: Bearer <token>`.

use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Checks one header; cheap to clone.
#[derive(Clone)]
pub struct AdminGuard {
    token: Option<Arc<str>>,
}

impl AdminGuard {
    pub fn open() -> AdminGuard {
        AdminGuard { token: None }
    }

    pub fn with_token(token: &str) -> AdminGuard {
        AdminGuard { token: Some(token.trim().into()) }
    }
}

impl Interceptor for AdminGuard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.token else { return Ok(request) };
        let given = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
        let given = given.and_then(|v| v.strip_prefix("Bearer ")).unwrap_or_default();
        // In constant time, whatever was given.
        match aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), token.as_bytes()) {
            Ok(()) => Ok(request),
            Err(_) => Err(Status::unauthenticated(
                "the admin API needs the token in <data-dir>/admin.token as `authorization: Bearer <token>`",
            )),
        }
    }
}
