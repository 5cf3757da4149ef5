//! Plain HTTP requests on loopback: to the sidecars' admin addresses and to the shop.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);

/// One request on a connection of its own: status and body.
pub async fn request(method: Method, address: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    match tokio::time::timeout(TIMEOUT, attempt(method, address, path)).await {
        Ok(result) => result.map_err(|e| format!("{address}{path}: {e}")),
        Err(_) => Err(format!("{address}{path}: no answer within {} s", TIMEOUT.as_secs())),
    }
}

pub async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    request(Method::GET, address, path).await
}

async fn attempt(
    method: Method,
    address: SocketAddr,
    path: &str,
) -> Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header(http::header::HOST, address.to_string());
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Counters and gauges of a sidecar, as its `/stats` page prints them.
pub struct Stats(String);

impl Stats {
    pub async fn read(admin: SocketAddr) -> Result<Stats, String> {
        let (status, body) = get(admin, "/stats").await?;
        if status == StatusCode::OK { Ok(Stats(body)) } else { Err(format!("{admin}/stats: {status}")) }
    }

    /// The sum over all metrics whose name starts and ends so.
    pub fn sum(&self, prefix: &str, suffix: &str) -> i64 {
        let of = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            (name.starts_with(prefix) && name.ends_with(suffix)).then(|| value.trim().parse::<i64>().ok()).flatten()
        };
        self.0.lines().filter_map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Stats;

    #[test]
    fn stats_are_summed_by_prefix_and_suffix() {
        let stats = Stats("cluster.a|b.rq: 3\ncluster.a|b.rq_time: No recorded values\ncluster.c.rq: 4\n".to_owned());
        assert_eq!((stats.sum("cluster.", ".rq"), stats.sum("none", "")), (7, 0));
    }
}
