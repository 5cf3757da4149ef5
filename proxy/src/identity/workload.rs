//! The workload as `node.metadata.sidemesh` of the bootstrap describes it.

use std::net::SocketAddr;

use serde_json::Value;

use super::Error;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub namespace: String,
    pub service: String,
    pub service_account: String,
    pub version: String,
    pub labels: Vec<(String, String)>,
    pub inbound: Vec<Inbound>,
    pub egress: Vec<String>,
}

/// One inbound listener: where peers connect, and the port it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    pub listen: SocketAddr,
    pub port: u16,
}

impl Workload {
    /// Reads the struct; `None` when the node has no such metadata.
    pub fn from_metadata(metadata: &Value) -> Result<Option<Workload>, Error> {
        let Some(own) = metadata.get("sidemesh") else { return Ok(None) };
        let text = |key: &str, default: &str| match own.get(key) {
            None | Some(Value::Null) => Ok(default.to_owned()),
            Some(Value::String(s)) => Ok(s.clone()),
            Some(other) => Err(Error::Metadata(format!("{key}: expected text, found {other}"))),
        };
        let service = text("service", "")?;
        if service.is_empty() {
            return Err(Error::Metadata("service: missing; name the service that this workload is part of".to_owned()));
        }
        Ok(Some(Workload {
            namespace: text("namespace", "default")?,
            service_account: text("serviceAccount", &service)?,
            version: text("version", "")?,
            labels: labels(own)?,
            inbound: inbound(own)?,
            egress: egress(own)?,
            service,
        }))
    }
}

fn labels(own: &Value) -> Result<Vec<(String, String)>, Error> {
    let Some(map) = own.get("labels") else { return Ok(Vec::new()) };
    let map = map.as_object().ok_or_else(|| Error::Metadata("labels: expected a map of text".to_owned()))?;
    map.iter()
        .map(|(k, v)| match v.as_str() {
            Some(v) => Ok((k.clone(), v.to_owned())),
            None => Err(Error::Metadata(format!("labels.{k}: expected text"))),
        })
        .collect()
}

fn egress(own: &Value) -> Result<Vec<String>, Error> {
    let Some(list) = own.get("egress") else { return Ok(Vec::new()) };
    let list = list.as_array().ok_or_else(|| Error::Metadata("egress: expected a list of service names".to_owned()))?;
    list.iter()
        .map(|v| {
            v.as_str().map(str::to_owned).ok_or_else(|| Error::Metadata(format!("egress: {v} is no service name")))
        })
        .collect()
}

fn inbound(own: &Value) -> Result<Vec<Inbound>, Error> {
    let Some(list) = own.get("inbound") else { return Ok(Vec::new()) };
    let list = list.as_array().ok_or_else(|| Error::Metadata("inbound: expected a list".to_owned()))?;
    list.iter()
        .enumerate()
        .map(|(i, entry)| one_inbound(entry).map_err(|what| Error::Metadata(format!("inbound[{i}].{what}"))))
        .collect()
}

fn one_inbound(entry: &Value) -> Result<Inbound, String> {
    let listen = entry["listen"].as_str().ok_or("listen: missing; give `address:port`")?;
    let listen = listen.parse().map_err(|_| format!("listen: `{listen}` is no `address:port`"))?;
    let port = entry["port"].as_f64().filter(|p| (1.0..=65_535.0).contains(p) && p.fract() == 0.0);
    Ok(Inbound { listen, port: port.ok_or("port: missing or not within 1..65535")? as u16 })
}
