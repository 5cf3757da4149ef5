//! The guided tour: each step does something, prints what happened, and checks it.

use std::time::{Duration, Instant};

use http::Method;

use super::admin::{self, Stats};
use super::load::{Load, Tally};
use super::world::World;
use crate::client::{Failure, Server};

/// Requests of one look at the traffic.
const LOOK: u64 = 300;
/// More than the clients have in flight at any moment.
const UNDER_WAY: u64 = 20;

pub async fn run(world: &mut World) -> Result<(), Failure> {
    let load = Load::start(world.order_address());
    let started = Instant::now();
    traffic(&load).await?;
    mutual_tls(world).await?;
    shift(world, &load).await?;
    ejection(world, &load).await?;
    renewal(world, &load).await?;
    outage(world, &load).await?;
    println!("\nThe tour took {} s.", started.elapsed().as_secs());
    Ok(())
}

fn title(number: u32, text: &str) {
    println!("\n{number}. {text}");
}

fn told(text: &str) {
    println!("   {text}");
}

/// Fails with the claim that did not hold.
fn claim(holds: bool, text: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::Failed(format!("the tour's claim does not hold: {text}"))) }
}

fn unharmed(tally: &Tally) -> Result<(), Failure> {
    claim(
        tally.failed == 0,
        &format!("{} of {} orders failed, the last with {}", tally.failed, tally.ok + tally.failed, tally.last_failure),
    )
}

async fn traffic(load: &Load) -> Result<(), Failure> {
    title(1, "Traffic flows: order asks user and product, through its sidecar and theirs.");
    let tally = load.observe(LOOK).await;
    told(&format!("{} orders, {} failed; answered by {}", tally.ok, tally.failed, list(&tally)));
    unharmed(&tally)?;
    claim(tally.share("v1") > 99.9, "the route sends everything to product v1")?;
    claim(tally.instances.len() == 2, "both instances of product v1 answer")
}

fn list(tally: &Tally) -> String {
    tally.instances.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}

async fn mutual_tls(world: &World) -> Result<(), Failure> {
    title(2, "Between sidecars there is mutual TLS, and nothing else gets in.");
    let product = world.layout.instance("product-v1-1")?;
    let plain = admin::get(product.inbound, "/products/teapot").await;
    told(&format!(
        "a plain request to product's sidecar at {}: {}",
        product.inbound,
        plain.as_ref().map_or("refused".to_owned(), |(s, _)| s.to_string())
    ));
    claim(plain.is_err(), "a plain request to the inbound listener is refused")?;
    let (_, certificates) = admin::get(product.admin, "/certs").await.map_err(Failure::Failed)?;
    let identity = certificates.split('"').find(|word| word.starts_with("spiffe://") && word.contains("/ns/"));
    let identity = identity.unwrap_or("nothing");
    told(&format!("its certificate says {identity}"));
    claim(
        identity.ends_with("/ns/default/sa/product"),
        &format!("/certs names product's identity, but says {certificates}"),
    )?;
    let stats = Stats::read(product.admin).await.map_err(Failure::Failed)?;
    let handshakes = stats.sum("listener.", ".ssl.handshake");
    told(&format!("{handshakes} TLS handshakes accepted there so far"));
    claim(handshakes > 0, "calls from order arrive over TLS")
}

async fn shift(world: &World, load: &Load) -> Result<(), Failure> {
    title(3, "meshctl route shift product v2=20 --wait");
    meshctl(&world.server, &["route", "shift", "product", "v2=20", "--wait"]).await?;
    let tally = load.observe(2 * LOOK).await;
    told(&format!("of the next {} orders {:.0} % were answered by v2", tally.ok, tally.share("v2")));
    unharmed(&tally)?;
    claim((10.0..=30.0).contains(&tally.share("v2")), "v2 gets about 20 % of the orders")
}

/// Runs this program as a user would, with its output indented.
async fn meshctl(server: &Server, args: &[&str]) -> Result<(), Failure> {
    let own = std::env::current_exe().map_err(|e| Failure::Failed(e.to_string()))?;
    let mut command = tokio::process::Command::new(own);
    command.args(args).args(["--server", &server.url, "--namespace", &server.namespace]);
    for given in ["SIDEMESH_CONTEXT", "SIDEMESH_CA_FILE", "SIDEMESH_TOKEN_FILE"] {
        command.env_remove(given);
    }
    let output = command.output().await;
    let output = output.map_err(|e| Failure::Failed(format!("meshctl {}: {e}", args.join(" "))))?;
    for line in String::from_utf8_lossy(&output.stdout).lines().chain(String::from_utf8_lossy(&output.stderr).lines()) {
        told(line);
    }
    claim(output.status.success(), &format!("meshctl {} succeeds", args.join(" ")))
}

async fn ejection(world: &World, load: &Load) -> Result<(), Failure> {
    title(4, "An instance of product v1 fails every request: orders succeed all the same.");
    let (order, product) = (world.layout.instance("order-1")?, world.layout.instance("product-v1-2")?);
    let before = Stats::read(order.admin).await.map_err(Failure::Failed)?;
    admin::request(Method::POST, product.app, "/fail?on").await.map_err(Failure::Failed)?;
    let tally = load.observe(LOOK).await;
    let after = Stats::read(order.admin).await.map_err(Failure::Failed)?;
    let grown = |suffix: &str| after.sum("cluster.", suffix) - before.sum("cluster.", suffix);
    let (retries, ejected) =
        (grown(".upstream_rq_retry"), after.sum("cluster.", ".outlier_detection.ejections_active"));
    let overflow = grown(".upstream_rq_retry_overflow");
    told(&format!(
        "{} orders, {} failed; {retries} retries ({overflow} refused by the budget), {ejected} instance ejected",
        tally.ok, tally.failed
    ));
    admin::request(Method::POST, product.app, "/fail?off").await.map_err(Failure::Failed)?;
    unharmed(&tally)?;
    claim(retries > 0, "the failed requests were tried again elsewhere")?;
    claim(ejected == 1, "the failing instance is ejected")?;
    claim(retries as f64 <= 0.2 * tally.ok as f64 + 10.0, "retries stay within the budget of 20 %")?;
    let (_, clusters) = admin::get(order.admin, "/clusters").await.map_err(Failure::Failed)?;
    let line = format!("::{}::health_flags::/failed_outlier_check", product.inbound);
    claim(clusters.lines().any(|l| l.ends_with(&line)), "/clusters of order's sidecar names the ejected instance")
}

async fn renewal(world: &World, load: &Load) -> Result<(), Failure> {
    title(
        5,
        &format!(
            "Certificates live {} s here, and are renewed at half of it: no request notices.",
            world.leaf_ttl.as_secs()
        ),
    );
    let product = world.layout.instance("product-v1-1")?;
    let read = async || admin::get(product.admin, "/certs").await.map(|(_, body)| serial(&body));
    let before = read().await.map_err(Failure::Failed)?;
    load.take();
    let deadline = Instant::now() + world.leaf_ttl;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = read().await.map_err(Failure::Failed)?;
        if now != before {
            told(&format!(
                "product's certificate {} is replaced by {}",
                before.as_deref().unwrap_or("?"),
                now.as_deref().unwrap_or("?")
            ));
            break;
        }
        claim(Instant::now() < deadline, "product's certificate is renewed within its lifetime")?;
    }
    let tally = load.take();
    told(&format!("{} orders meanwhile, {} failed", tally.ok, tally.failed));
    unharmed(&tally)
}

/// The serial number of the workload's own certificate on a `/certs` page.
fn serial(page: &str) -> Option<String> {
    let page: serde_json::Value = serde_json::from_str(page).ok()?;
    let mut serials = page["certificates"].as_array()?.iter().map(|c| &c["cert_chain"][0]["serial_number"]);
    serials.find_map(|serial| serial.as_str()).map(str::to_owned)
}

async fn outage(world: &mut World, load: &Load) -> Result<(), Failure> {
    title(6, "The control plane is killed (SIGKILL): traffic goes on.");
    world.kill_control_plane().await;
    let tally = load.observe(LOOK).await;
    told(&format!("{} orders without a control plane, {} failed", tally.ok, tally.failed));
    unharmed(&tally)?;
    world.start_control_plane().await?;
    let weights = crate::get::value(&crate::get::one(&world.server, "HTTPRoute", "product").await?)?;
    let v2 = &weights["spec"]["rules"][0]["backendRefs"][1]["weight"];
    told(&format!("started again, it still knows that v2 gets {v2} %"));
    claim(*v2 == 20, "the acknowledged write survived the kill")?;
    reconnected(world).await?;
    let tally = load.observe(LOOK).await;
    unharmed(&tally)?;
    told("and the sidecars are back with it; meshctl route undo product --wait");
    meshctl(&world.server, &["route", "undo", "product", "--wait"]).await?;
    // Orders under way while the change arrived may still be answered by v2.
    let under_way = load.observe(UNDER_WAY).await;
    unharmed(&under_way)?;
    let last = load.observe(LOOK).await;
    unharmed(&last)?;
    claim(last.share("v1") > 99.9, "after the undo everything goes to v1 again")
}

/// Waits until every sidecar is connected to the new control plane.
async fn reconnected(world: &World) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let wanted = world.layout.instances.len();
    loop {
        let request = sidemesh_proto::sidemesh::admin::v1alpha1::ListProxiesRequest::default();
        let list = world.server.proxies().await?.list_proxies(request).await?.into_inner();
        let connected = list.proxies.iter().filter(|p| p.connected).count();
        if connected >= wanted {
            return Ok(());
        }
        claim(Instant::now() < deadline, &format!("all {wanted} sidecars are connected again, not {connected}"))?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
