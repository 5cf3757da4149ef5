//! Who may use the admin API: whoever shows the token in `<data-dir>/admin.token` as `authorization: Bearer <token>`,
//! and, on a loopback port without TLS, this process's own user and root without it.

use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Status};

use super::local_user;

const ROOT: u32 = 0;

/// Checks one header, or where the request came from; cheap to clone.
#[derive(Clone)]
pub struct AdminGuard {
    token: Arc<str>,
    local_user: bool,
}

impl AdminGuard {
    /// `local_user`: let this process's own user in without the token.
    pub fn new(token: &str, local_user: bool) -> AdminGuard {
        AdminGuard { token: token.trim().into(), local_user }
    }

    fn shows_token(&self, request: &Request<()>) -> bool {
        let given = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
        let given = given.and_then(|v| v.strip_prefix("Bearer ")).unwrap_or_default();
        // In constant time, whatever was given.
        aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), self.token.as_bytes()).is_ok()
    }
}

impl Interceptor for AdminGuard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if self.shows_token(&request) || (self.local_user && is_own_user(&request)) {
            return Ok(request);
        }
        let who = if self.local_user { "the user that runs the control plane, root, and " } else { "" };
        Err(Status::unauthenticated(format!(
            "the admin API is for {who}whoever shows the token in <data-dir>/admin.token: give it with meshctl --token-file"
        )))
    }
}

/// Does the request come from this process's own user, or root, on this machine?
pub fn is_own_user<T>(request: &Request<T>) -> bool {
    let Some(connection) = request.extensions().get::<TcpConnectInfo>() else { return false };
    let (Some(client), Some(server)) = (connection.remote_addr(), connection.local_addr()) else { return false };
    let Some(user) = local_user::of(client, server) else { return false };
    user == ROOT || Some(user) == local_user::own()
}
