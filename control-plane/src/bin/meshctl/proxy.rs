//! `meshctl proxy status|config`: who is connected, what it runs, what it was sent.

use std::process::ExitCode;

use serde_json::{Value, json};
use sidemesh_proto::sidemesh::admin::v1alpha1::type_status::State;
use sidemesh_proto::sidemesh::admin::v1alpha1::{
    GetProxyConfigRequest, ListProxiesRequest, ListProxiesResponse, Proxy, TypeStatus,
};

use crate::client::{Failure, Server};
use crate::output::{Format, age_of, structured, table};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Each proxy: connected, and whether it runs the newest configuration.
    Status {
        /// One proxy only, by its node id.
        node: Option<String>,
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
    /// The configuration a proxy was sent.
    Config {
        /// Node id.
        node: String,
        /// One kind only.
        #[arg(long = "type", value_enum)]
        kind: Option<Kind>,
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Listener,
    Route,
    Cluster,
    Endpoint,
    Secret,
}

impl Kind {
    fn type_url(self) -> &'static str {
        use sidemesh_proto::type_url;
        match self {
            Kind::Listener => type_url::LISTENER,
            Kind::Route => type_url::ROUTE,
            Kind::Cluster => type_url::CLUSTER,
            Kind::Endpoint => type_url::ENDPOINT,
            Kind::Secret => type_url::SECRET,
        }
    }
}

pub async fn run(server: &Server, args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Status { node, output } => status(server, node.as_deref(), output).await?,
        Command::Config { node, kind, output } => config(server, node, kind, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(server: &Server, node: Option<&str>, output: Option<Format>) -> Result<(), Failure> {
    let mut list = server.proxies().await?.list_proxies(ListProxiesRequest::default()).await?.into_inner();
    if let Some(node) = node {
        list.proxies.retain(|p| p.node_id == node);
        if list.proxies.is_empty() {
            return Err(Failure::NotFound(format!("proxy {node}; `meshctl proxy status` lists them")));
        }
    }
    match output {
        Some(format @ (Format::Json | Format::Yaml)) => structured(format, &as_json(&list)),
        Some(Format::Name) => list.proxies.iter().try_for_each(|p| crate::output::print(&format!("{}\n", p.node_id))),
        wide => {
            let rows: Vec<Vec<String>> = list.proxies.iter().map(|p| row(p, wide.is_some())).collect();
            let headings: &[&str] = if wide.is_some() {
                &[
                    "NODE",
                    "SERVICE",
                    "VERSION",
                    "CONNECTED",
                    "CDS",
                    "EDS",
                    "LDS",
                    "RDS",
                    "REVISION",
                    "AGENT",
                    "PEER",
                    "NACK",
                ]
            } else {
                &["NODE", "SERVICE", "VERSION", "CONNECTED", "CDS", "EDS", "LDS", "RDS", "REVISION"]
            };
            table(headings, &rows)?;
            list.proxies
                .iter()
                .flat_map(|p| p.types.iter().map(move |t| (p, t)))
                .filter(|(_, t)| !t.nack_error.is_empty())
                .for_each(|(p, t)| eprintln!("{} refused {}: {}", p.node_id, short(&t.type_url), t.nack_error));
            Ok(())
        }
    }
}

fn short(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

fn state(t: &TypeStatus) -> &'static str {
    match t.state() {
        State::Acked => "acked",
        State::Nacked => "NACKED",
        State::Pending => "pending",
        State::NotSent => "not sent",
        State::Unspecified => "-",
    }
}

fn row(p: &Proxy, wide: bool) -> Vec<String> {
    let of = |url: &str| p.types.iter().find(|t| t.type_url == url).map_or("-", state).to_owned();
    use sidemesh_proto::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
    let connected = if p.connected {
        age_of(p.connected_at.as_ref())
    } else {
        format!("gone {}", age_of(p.disconnected_at.as_ref()))
    };
    let revision = p.types.iter().map(|t| t.acked_revision).max().unwrap_or(0).to_string();
    let mut cells = vec![
        p.node_id.clone(),
        format!("{}.{}", p.service, p.namespace),
        p.workload_version.clone(),
        connected,
        of(CLUSTER),
        of(ENDPOINT),
        of(LISTENER),
        of(ROUTE),
        revision,
    ];
    if wide {
        let nacks: Vec<&str> = p.types.iter().map(|t| t.nack_error.as_str()).filter(|e| !e.is_empty()).collect();
        cells.extend([p.user_agent.clone(), p.peer.clone(), nacks.join("; ")]);
    }
    cells
}

fn as_json(list: &ListProxiesResponse) -> Value {
    let types = |p: &Proxy| -> Vec<Value> {
        p.types
            .iter()
            .map(|t| json!({"typeUrl": t.type_url, "state": state(t), "sentRevision": t.sent_revision, "ackedRevision": t.acked_revision,
                "ackedVersion": t.acked_version, "nackError": t.nack_error, "resources": t.resource_count}))
            .collect()
    };
    let proxies: Vec<Value> = list
        .proxies
        .iter()
        .map(|p| {
            json!({"node": p.node_id, "namespace": p.namespace, "service": p.service, "version": p.workload_version,
            "userAgent": p.user_agent, "peer": p.peer, "connected": p.connected, "delta": p.delta, "types": types(p)})
        })
        .collect();
    json!({"revision": list.revision, "proxies": proxies})
}

async fn config(server: &Server, node: String, kind: Option<Kind>, output: Option<Format>) -> Result<(), Failure> {
    let request = GetProxyConfigRequest { node_id: node, type_url: kind.map_or("", Kind::type_url).to_owned() };
    let answer = server.proxies().await?.get_proxy_config(request).await?.into_inner();
    if answer.hypothetical {
        eprintln!("not connected: this is what it would be sent");
    }
    let mut resources = Vec::new();
    for r in &answer.resources {
        let body: Value = serde_json::from_str(&r.json).map_err(|e| Failure::Failed(format!("{}: {e}", r.name)))?;
        resources.push(json!({"typeUrl": r.type_url, "name": r.name, "version": r.version, "resource": body}));
    }
    match output {
        None | Some(Format::Wide | Format::Name) => {
            let rows: Vec<Vec<String>> = answer
                .resources
                .iter()
                .map(|r| vec![short(&r.type_url).to_owned(), r.name.clone(), r.version.clone()])
                .collect();
            table(&["TYPE", "NAME", "VERSION"], &rows)
        }
        Some(format) => structured(
            format,
            &json!({"revision": answer.revision, "outbound": answer.outbound, "resources": resources}),
        ),
    }
}
