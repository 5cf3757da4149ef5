//! The demo mesh as running processes.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::StatusCode;
use sidemesh_proto::sidemesh::admin::v1alpha1::CreateTokenRequest;

use super::layout::{Instance, Layout, bootstrap, objects, scrape_config, tracing};
use super::process::{Process, sibling};
use super::{Args, admin};
use crate::apply;
use crate::client::{Failure, Server};
use crate::documents::Document;

/// How long a part may take to get ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// For Prometheus, in the demo's directory.
const SCRAPE_FILE: &str = "prometheus.yml";

pub struct World {
    pub layout: Layout,
    pub server: Server,
    pub leaf_ttl: Duration,
    collector: Option<SocketAddr>,
    dir: PathBuf,
    remove_dir: bool,
    control_plane: Option<Process>,
    others: Vec<Process>,
}

impl World {
    /// Draws addresses and makes the directory; starts nothing.
    pub fn create(args: &Args) -> Result<World, Failure> {
        for program in ["sidemesh-control-plane", "sidemesh-proxy", "sidemesh-shop"] {
            sibling(program)?;
        }
        let (dir, remove_dir) = match &args.dir {
            Some(dir) => (dir.clone(), false),
            None => (std::env::temp_dir().join(format!("sidemesh-{}", std::process::id())), true),
        };
        // Tokens and keys lie in it.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|e| Failure::Usage(format!("--dir {}: {e}", dir.display())))?;
        let dir = dir.canonicalize().map_err(|e| Failure::Usage(format!("--dir {}: {e}", dir.display())))?;
        let layout = Layout::draw()?;
        let server = Server::local(layout.control_plane);
        Ok(World {
            layout,
            server,
            leaf_ttl: Duration::from_secs(args.leaf_ttl),
            collector: args.otlp,
            dir,
            remove_dir,
            control_plane: None,
            others: Vec::new(),
        })
    }

    /// Starts everything and waits until each part is ready.
    pub async fn start(&mut self) -> Result<(), Failure> {
        println!("Starting the control plane, 5 services and their sidecars (logs in {}).", self.dir.display());
        write(&self.dir, SCRAPE_FILE, &yaml(&scrape_config(&self.layout))?)?;
        self.start_control_plane().await?;
        let mut client = self.server.resources().await?;
        for value in objects().into_iter().chain(self.collector.map(tracing)) {
            let document = Document { origin: "the demo".to_owned(), value };
            apply::one(&mut client, &self.server.namespace, &document, false, "up").await?;
        }
        let (shop, proxy) = (sibling("sidemesh-shop")?, sibling("sidemesh-proxy")?);
        for instance in &self.layout.instances {
            let app = Process::start(&format!("{}-app", instance.node), &shop, &shop_args(instance), &self.dir)?;
            self.others.push(app);
            let token = self.token(instance.service).await?;
            let args = sidecar_args(instance, self.layout.control_plane, &token, &self.dir)?;
            self.others.push(Process::start(&format!("{}-sidecar", instance.node), &proxy, &args, &self.dir)?);
        }
        let admins: Vec<(&str, SocketAddr)> = self.layout.instances.iter().map(|i| (i.node, i.admin)).collect();
        for (node, at) in admins {
            self.ready(&format!("sidecar {node}"), at).await?;
        }
        self.first_order().await
    }

    pub async fn start_control_plane(&mut self) -> Result<(), Failure> {
        let args: Vec<String> = vec![
            "--data-dir".into(),
            self.dir.join("control-plane").display().to_string(),
            "--listen".into(),
            self.layout.control_plane.to_string(),
            "--metrics-listen".into(),
            self.layout.metrics.to_string(),
            "--leaf-ttl".into(),
            format!("{}s", self.leaf_ttl.as_secs()),
        ];
        self.control_plane =
            Some(Process::start("control-plane", &sibling("sidemesh-control-plane")?, &args, &self.dir)?);
        self.ready("control plane", self.layout.metrics).await
    }

    /// SIGKILL for the control plane.
    pub async fn kill_control_plane(&mut self) {
        if let Some(process) = self.control_plane.take() {
            process.kill().await;
        }
    }

    /// Waits for `/ready`, failing at once when any process has ended.
    async fn ready(&mut self, what: &str, address: SocketAddr) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = match admin::get(address, "/ready").await {
                Ok((StatusCode::OK, _)) => return Ok(()),
                Ok((status, body)) => format!("{status} {}", body.trim()),
                Err(error) => error,
            };
            self.check()?;
            if Instant::now() > deadline {
                return Err(Failure::Failed(format!("{what} is not ready after {} s: {last}", PATIENCE.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Endpoints spread in the moments after the sidecars are ready: waits for the first whole order.
    async fn first_order(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = match admin::get(self.order_address(), "/orders/ada/teapot").await {
                Ok((StatusCode::OK, _)) => return Ok(()),
                Ok((status, body)) => format!("{status} {}", body.trim()),
                Err(error) => error,
            };
            self.check()?;
            if Instant::now() > deadline {
                return Err(Failure::Failed(format!("no order got through: {last}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn token(&self, service_account: &str) -> Result<String, Failure> {
        let request = CreateTokenRequest {
            namespace: "default".to_owned(),
            service_account: service_account.to_owned(),
            ttl: None,
        };
        Ok(self.server.mesh().await?.create_token(request).await?.into_inner().token)
    }

    /// Fails when a process has ended that should run.
    pub fn check(&mut self) -> Result<(), Failure> {
        self.control_plane.iter_mut().chain(&mut self.others).try_for_each(Process::check)
    }

    /// Runs until a process ends by itself.
    pub async fn watch(&mut self) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.check()?;
        }
    }

    pub fn order_address(&self) -> SocketAddr {
        self.layout.instances.iter().find(|i| i.service == "order").map_or(self.layout.control_plane, |i| i.app)
    }

    pub fn print_addresses(&self) {
        println!("\nThe mesh runs until Ctrl-C; a client keeps ordering.");
        println!("  orders          http://{}/orders/ada/teapot", self.order_address());
        println!("  control plane   export SIDEMESH_SERVER={}   (then: meshctl proxy status)", self.server.url);
        println!("  its metrics     http://{}/metrics", self.layout.metrics);
        println!("  all metrics     prometheus --config.file={}", self.dir.join(SCRAPE_FILE).display());
        for i in &self.layout.instances {
            println!("  {:<15} admin http://{}  metrics http://{}/stats/prometheus", i.node, i.admin, i.admin);
        }
    }

    /// The directory, which is now kept.
    pub fn keep_dir(&mut self) -> &Path {
        self.remove_dir = false;
        &self.dir
    }

    /// Ends everything: sidecars and services first, the control plane last.
    pub async fn stop(mut self) {
        // All drain at the same time.
        for process in &self.others {
            process.terminate();
        }
        for process in self.others.drain(..).rev() {
            process.ended().await;
        }
        if let Some(process) = self.control_plane.take() {
            process.stop().await;
        }
        if self.remove_dir {
            // What cannot be removed lies in the temporary directory.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn shop_args(instance: &Instance) -> Vec<String> {
    let mut args = vec!["--listen".to_owned(), instance.app.to_string(), instance.service.to_owned()];
    match instance.service {
        "product" => {
            args.extend(["--version".into(), instance.version.into(), "--instance".into(), instance.node.into()])
        }
        "order" => {
            for (service, at) in &instance.outbound {
                args.extend([format!("--{service}"), at.to_string()]);
            }
        }
        _ => {}
    }
    args
}

fn sidecar_args(
    instance: &Instance,
    control_plane: SocketAddr,
    token: &str,
    dir: &Path,
) -> Result<Vec<String>, Failure> {
    let file = |name: String, text: &str| write(dir, &name, text);
    let text = yaml(&bootstrap(instance, control_plane))?;
    let config = file(format!("{}.yaml", instance.node), &text)?;
    let token = file(format!("{}.token", instance.node), token)?;
    let state = dir.join(format!("{}-state", instance.node)).display().to_string();
    let words = [
        "-c",
        &config,
        "--workers",
        "1",
        "--drain-time-s",
        "3",
        "--mesh",
        "--state-dir",
        &state,
        "--join-token-file",
        &token,
    ];
    Ok(words.iter().map(|w| (*w).to_owned()).collect())
}

fn yaml(value: &serde_json::Value) -> Result<String, Failure> {
    serde_yaml_ng::to_string(value).map_err(|e| Failure::Failed(e.to_string()))
}

/// Writes a file of the demo's directory; its path.
fn write(dir: &Path, name: &str, text: &str) -> Result<String, Failure> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
    Ok(path.display().to_string())
}
