//! Writes the corpora that need encoding, out of JSON and YAML: `cargo run --example seeds`.
//!
//! Each resource of `seeds/*.yaml` and of the control plane's golden files becomes an input of `resource`, of `bootstrap` and,
//! with requests behind it, of `route_match`; requests of our HTTP/2 client become inputs of `http2`.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::rc::Rc;

use serde_json::{Value, json};
use sidemesh_config::bootstrap::yaml;
use sidemesh_config::resource::{ResourceKind, decode};
use sidemesh_proto::google::Any;
use sidemesh_proto::json::{any_from_json, to_bytes};
use sidemesh_proto::type_url;
use sidemesh_proxy::clock::Random;
use sidemesh_proxy::codec::h2::{Settings, client};
use sidemesh_proxy::codec::{Body, Local, SendOptions};
use tokio::io::AsyncReadExt;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = here.join("corpus");
    for target in ["resource", "bootstrap", "route_match", "http2"] {
        fs::create_dir_all(corpus.join(target))?;
    }
    let mut resources = Vec::new();
    for file in ["seeds/wide.yaml", "../control-plane/src/translate/golden/sidecar.json"] {
        collect(&read(&here.join(file))?, &mut resources);
    }
    for (index, json) in resources.iter().enumerate() {
        resource(&corpus, &format!("seed-{index:02}"), json).map_err(|e| format!("{json}: {e}"))?;
    }
    http2(&corpus)
}

fn read(path: &Path) -> Result<Value, Failure> {
    let text = fs::read_to_string(path)?;
    // A list is no bootstrap, which is what `yaml` reads: it gets a name.
    Ok(yaml(&format!("all:\n{}", text.replace('\t', " ").lines().map(|l| format!("  {l}\n")).collect::<String>()))?)
}

/// Every object with an `@type` that is not itself inside of one.
fn collect(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Object(map) if map.contains_key("@type") => found.push(value.clone()),
        Value::Object(map) => map.values().for_each(|v| collect(v, found)),
        Value::Array(list) => list.iter().for_each(|v| collect(v, found)),
        _ => {}
    }
}

fn resource(corpus: &Path, name: &str, json: &Value) -> Result<(), Failure> {
    let any = any_from_json(json)?;
    if let Err(rejection) = decode(&any).result {
        eprintln!("{name}: kept, though it is refused: {rejection}");
    }
    let kind = ResourceKind::from_type_url(&any.type_url).ok_or("no type of resource")?;
    let index = ResourceKind::ALL.iter().position(|k| *k == kind).unwrap_or_default();
    fs::write(corpus.join("resource").join(name), [&[index as u8][..], &any.value].concat())?;
    let field = match kind {
        ResourceKind::Listener => "listeners",
        ResourceKind::Cluster => "clusters",
        ResourceKind::Secret => "secrets",
        ResourceKind::Route => return route(corpus, name, &any),
        _ => return Ok(()),
    };
    let mut inner = json.clone();
    inner.as_object_mut().and_then(|map| map.remove("@type"));
    let file = json!({ "node": { "id": "n", "cluster": "c" }, "static_resources": { field: [inner] } });
    let encoded = to_bytes("envoy.config.bootstrap.v3.Bootstrap", &file)?;
    fs::write(corpus.join("bootstrap").join(format!("{name}.json")), serde_json::to_vec_pretty(&file)?)?;
    fs::write(corpus.join("bootstrap").join(format!("{name}.bin")), encoded)?;
    Ok(())
}

fn route(corpus: &Path, name: &str, table: &Any) -> Result<(), Failure> {
    debug_assert_eq!(type_url::message_name(&table.type_url), type_url::message_name(type_url::ROUTE));
    let length = u16::try_from(table.value.len())?.to_be_bytes();
    let requests = [
        "GET\na.test\n/exact\nx-a: b\nx-n: 5",
        "GET\nb.a.test\n/r/12/x?q=yz",
        "POST\na.test:8080\n/api/x\ncontent-type: application/grpc",
        "GET\na.com\n/t/7/y/z\nx-cluster: one",
        "HEAD\na.test\n/w\nx-user: u",
        "GET\nelse.test\n/",
    ];
    for (index, request) in requests.iter().enumerate() {
        let input = [&length[..], &table.value, request.as_bytes()].concat();
        fs::write(corpus.join("route_match").join(format!("{name}-{index}")), input)?;
    }
    Ok(())
}

/// What our client writes for a few requests, without the preface that the target writes itself.
fn http2(corpus: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let requests = [("get", "GET", ""), ("post", "POST", "some body"), ("connect", "CONNECT", "")];
    for (name, method, body) in requests {
        let bytes = tokio::task::LocalSet::new().block_on(&runtime, written(method, body))?;
        // Preface, then SETTINGS: the target begins with its own.
        fs::write(corpus.join("http2").join(name), [&[5], bytes.get(24..).unwrap_or_default()].concat())?;
    }
    Ok(())
}

async fn written(method: &str, body: &str) -> Result<Vec<u8>, Failure> {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let connection = client::connect(near.into(), Settings::default(), Local::new(Random::seeded(1))).await?;
    let uri = if method == "CONNECT" { "h.test:443" } else { "/path?query" };
    let request =
        http::Request::builder().method(method).uri(uri).header("host", "h.test").header("x-a", "b").body(())?;
    let parts = Rc::new(request.into_parts().0);
    let body = Body::from(body.to_owned());
    let sending = tokio::task::spawn_local(async move {
        let _ = connection.send(&parts, body, SendOptions::default(), None).await;
    });
    let mut bytes = Vec::new();
    let reading = far.read_to_end(&mut bytes);
    // The answer never comes: what was written by then is all.
    let _ = tokio::time::timeout(std::time::Duration::from_millis(200), reading).await;
    sending.abort();
    Ok(bytes)
}
