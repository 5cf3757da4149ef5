//! `meshctl check`: is the mesh well, and if not, what is wrong and what to do.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sidemesh_proto::sidemesh::admin::v1alpha1::type_status::State;
use sidemesh_proto::sidemesh::admin::v1alpha1::{
    GetCaStatusRequest, GetHealthRequest, ListProxiesRequest, ListRequest, Proxy,
};

use crate::client::{Failure, Server};
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {}

/// Roots that end sooner than this are worth a warning.
const ROOT_WARNING: Duration = Duration::from_secs(30 * 86_400);
/// Clocks may differ by this much.
const SKEW: Duration = Duration::from_secs(30);

/// One finding: well or not, and the words.
struct Finding(bool, String);

pub async fn run(server: &Server, _args: Args) -> Result<ExitCode, Failure> {
    let mut findings = control_plane(server).await?;
    findings.extend(certificates(server).await?);
    findings.extend(proxies(server).await?);
    findings.extend(routes(server).await?);
    let mut well = true;
    for Finding(ok, text) in &findings {
        well &= ok;
        print(&format!("{} {text}\n", if *ok { "ok  " } else { "FAIL" }))?;
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn control_plane(server: &Server) -> Result<Vec<Finding>, Failure> {
    let health = server.mesh().await?.get_health(GetHealthRequest {}).await?.into_inner();
    let mut findings = vec![Finding(health.ready, format!("control plane at {} is ready", server.url))];
    findings.extend(health.parts.into_iter().map(|p| {
        let detail = if p.message.is_empty() { String::new() } else { format!(": {}", p.message) };
        Finding(p.ok, format!("control plane: {}{detail}", p.name))
    }));
    Ok(findings)
}

async fn certificates(server: &Server) -> Result<Vec<Finding>, Failure> {
    let ca = server.mesh().await?.get_ca_status(GetCaStatusRequest {}).await?.into_inner();
    let mut findings = Vec::new();
    let at =
        |t: &sidemesh_proto::google::Timestamp| UNIX_EPOCH + Duration::from_secs(u64::try_from(t.seconds).unwrap_or(0));
    let now = SystemTime::now();
    for root in &ca.roots {
        let left = root.not_after.as_ref().and_then(|t| at(t).duration_since(now).ok()).unwrap_or(Duration::ZERO);
        let text = format!("root certificate of {} ends in {} days", ca.trust_domain, left.as_secs() / 86_400);
        findings.push(Finding(left > ROOT_WARNING, text));
    }
    if let Some(theirs) = &ca.now {
        let theirs = at(theirs);
        let skew = now.duration_since(theirs).unwrap_or_else(|e| e.duration());
        let text = format!("clocks of this machine and the control plane differ by {} s", skew.as_secs());
        findings.push(Finding(skew < SKEW, text));
    }
    Ok(findings)
}

async fn proxies(server: &Server) -> Result<Vec<Finding>, Failure> {
    let list = server.proxies().await?.list_proxies(ListProxiesRequest::default()).await?.into_inner();
    let connected = list.proxies.iter().filter(|p| p.connected).count();
    let mut findings = vec![Finding(true, format!("{connected} proxies connected"))];
    for proxy in &list.proxies {
        findings.extend(refusals(proxy));
    }
    Ok(findings)
}

fn refusals(proxy: &Proxy) -> Vec<Finding> {
    proxy
        .types
        .iter()
        .filter(|t| t.state() == State::Nacked)
        .map(|t| Finding(false, format!("proxy {} refused {}: {}", proxy.node_id, t.type_url, t.nack_error)))
        .collect()
}

/// Routes and policies whose status says that they do not work as written.
async fn routes(server: &Server) -> Result<Vec<Finding>, Failure> {
    let mut values = crate::route::all(server).await?;
    let mut findings = vec![Finding(true, format!("{} routes", values.len()))];
    let request = ListRequest { kind: "BackendTLSPolicy".to_owned(), ..ListRequest::default() };
    for object in &server.resources().await?.list(request).await?.into_inner().objects {
        values.push(crate::get::value(object)?);
    }
    for value in &values {
        let part = |field: &str| value["metadata"][field].as_str().unwrap_or("?");
        let what = if value["kind"] == "BackendTLSPolicy" { "policy" } else { "route" };
        let name = format!("{what} {}/{}", part("namespace"), part("name"));
        let failing = crate::get::conditions(value).into_iter().filter(|c| c["status"] == "False");
        findings.extend(failing.map(|condition| {
            let text = |key: &str| condition[key].as_str().unwrap_or("").to_owned();
            Finding(false, format!("{name}: {}: {}", text("reason"), text("message")))
        }));
    }
    Ok(findings)
}
