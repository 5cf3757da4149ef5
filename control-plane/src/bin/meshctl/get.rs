//! `meshctl get KIND [NAME]`.

use std::process::ExitCode;

use serde_json::{Value, json};
use sidemesh_proto::sidemesh::admin::v1alpha1::{GetRequest, ListRequest, Object, ObjectRef};

use crate::client::{Failure, Server};
use crate::output::{Format, print, structured, table};

#[derive(clap::Args)]
pub struct Args {
    /// Kind, in any spelling kubectl takes (`svc`, `httproutes`), several as `svc,hr`, `KIND/NAME`, or `all`.
    kind: String,
    /// Names; all of the kind when left out.
    names: Vec<String>,
    /// In all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels: `app=product,version!=v1`.
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

pub async fn run(server: &Server, args: Args) -> Result<ExitCode, Failure> {
    let mut objects = Vec::new();
    let single = if let Some((kind, name)) = args.kind.split_once('/') {
        objects.push(one(server, kind, name).await?);
        for other in &args.names {
            let (kind, name) = other
                .split_once('/')
                .ok_or_else(|| Failure::Usage(format!("{other}: write every object as KIND/NAME, or KIND NAME...")))?;
            objects.push(one(server, kind, name).await?);
        }
        objects.len() == 1
    } else if args.names.is_empty() {
        for kind in args.kind.split(',') {
            objects.extend(list(server, kind, &args).await?);
        }
        false
    } else {
        for name in &args.names {
            objects.push(one(server, &args.kind, name).await?);
        }
        objects.len() == 1
    };
    show(&objects, single, args.output)?;
    Ok(ExitCode::SUCCESS)
}

/// Fetches one object of the server's namespace.
pub async fn one(server: &Server, kind: &str, name: &str) -> Result<Object, Failure> {
    let reference = ObjectRef {
        api_version: String::new(),
        kind: kind.to_owned(),
        namespace: server.namespace.clone(),
        name: name.to_owned(),
    };
    let answer = server.resources().await?.get(GetRequest { r#ref: Some(reference) }).await?.into_inner();
    answer.object.ok_or_else(|| Failure::NotFound(format!("{kind}/{name}")))
}

async fn list(server: &Server, kind: &str, args: &Args) -> Result<Vec<Object>, Failure> {
    let request = ListRequest {
        kind: if kind == "all" { String::new() } else { kind.to_owned() },
        namespace: if args.all_namespaces { String::new() } else { server.namespace.clone() },
        label_selector: args.selector.clone(),
    };
    Ok(server.resources().await?.list(request).await?.into_inner().objects)
}

/// An object's JSON.
pub fn value(object: &Object) -> Result<Value, Failure> {
    serde_json::from_str(&object.json).map_err(|e| Failure::Failed(format!("unreadable object: {e}")))
}

/// `single`: one object was asked for by name, and is not a list of one.
fn show(objects: &[Object], single: bool, output: Option<Format>) -> Result<(), Failure> {
    let values = objects.iter().map(value).collect::<Result<Vec<_>, _>>()?;
    match output {
        Some(format @ (Format::Json | Format::Yaml)) => match values.as_slice() {
            [one] if single => structured(format, one),
            many => structured(format, &json!({"apiVersion": "v1", "kind": "List", "items": many})),
        },
        Some(Format::Name) => values.iter().try_for_each(|v| print(&format!("{}\n", title(v)))),
        _ if values.is_empty() => {
            eprintln!("nothing found");
            Ok(())
        }
        wide => {
            let rows: Vec<Vec<String>> = values.iter().map(|v| row(v, wide.is_some())).collect();
            let headings: &[&str] = if wide.is_some() {
                &["KIND", "NAMESPACE", "NAME", "GENERATION", "REVISION", "STATUS", "DETAIL"]
            } else {
                &["KIND", "NAMESPACE", "NAME", "STATUS", "DETAIL"]
            };
            table(headings, &rows)
        }
    }
}

fn title(v: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    format!("{}/{}", text(&v["kind"]).to_lowercase(), text(&v["metadata"]["name"]))
}

fn row(v: &Value, wide: bool) -> Vec<String> {
    let text =
        |v: &Value| v.as_str().map_or_else(|| if v.is_null() { String::new() } else { v.to_string() }, str::to_owned);
    let meta = &v["metadata"];
    let mut cells = vec![text(&v["kind"]), text(&meta["namespace"]), text(&meta["name"])];
    if wide {
        cells.push(text(&meta["generation"]));
        cells.push(text(&meta["resourceVersion"]));
    }
    cells.push(status(v));
    cells.push(detail(v));
    cells
}

/// All conditions in an object's status: of routes by parent, of policies by target.
pub fn conditions(v: &Value) -> Vec<&Value> {
    let lists = ["parents", "ancestors"].into_iter().filter_map(|list| v["status"][list].as_array());
    lists.flatten().filter_map(|entry| entry["conditions"].as_array()).flatten().collect()
}

/// The first condition that is not as it should be, else `Accepted`; empty for kinds without conditions.
fn status(v: &Value) -> String {
    let conditions = conditions(v);
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    match conditions.iter().find(|c| c["status"] == "False") {
        Some(bad) => text(&bad["reason"]),
        None if conditions.is_empty() => String::new(),
        None => "Accepted".to_owned(),
    }
}

/// What matters most of each kind.
fn detail(v: &Value) -> String {
    let spec = &v["spec"];
    let list = |v: &Value, each: &dyn Fn(&Value) -> String| {
        v.as_array().map(|a| a.iter().map(each).collect::<Vec<_>>().join(",")).unwrap_or_default()
    };
    let text =
        |v: &Value| v.as_str().map_or_else(|| if v.is_null() { String::new() } else { v.to_string() }, str::to_owned);
    match v["kind"].as_str().unwrap_or("") {
        "Service" => list(&spec["ports"], &|p| text(&p["port"])),
        "HTTPRoute" | "GRPCRoute" | "TCPRoute" => list(&spec["rules"], &|r| {
            let backends: Vec<String> = r["backendRefs"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|b| format!("{}={}", text(&b["name"]), b["weight"].as_u64().unwrap_or(1)))
                .collect();
            backends.join("+")
        }),
        "EndpointSlice" => list(&v["endpoints"], &|e| list(&e["addresses"], &text)),
        "Workload" => format!("{} {}", text(&spec["service"]), text(&spec["address"])).trim().to_owned(),
        _ => String::new(),
    }
}
