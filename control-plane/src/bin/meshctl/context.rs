//! Which control plane, and with what credentials: flags, then the environment, then the current context, then defaults.
//!
//! Contexts are named sets of those flags in one file (`SIDEMESH_CONFIG`, else `~/.config/sidemesh/config.yaml`), as
//! kubectl has them. Files hold secrets, contexts name the files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::client::{Failure, Server};
use crate::output::{print, table};

const DEFAULT_SERVER: &str = "http://127.0.0.1:15010";
const DEFAULT_NAMESPACE: &str = "default";

/// The flags that say where the control plane is; every command has them.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Flags {
    /// Address of the control plane's API. Default: the context's, else http://127.0.0.1:15010.
    #[arg(long, global = true, env = "SIDEMESH_SERVER", value_name = "URL")]
    server: Option<String>,
    /// Certificates to trust with an https server: the control plane's <data-dir>/ca/root.pem.
    #[arg(long, global = true, env = "SIDEMESH_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The admin token: the control plane's <data-dir>/admin.token. Its own user on its own machine needs none.
    #[arg(long, global = true, env = "SIDEMESH_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Namespace of objects that name none. Default: the context's, else `default`.
    #[arg(long, short, global = true, env = "SIDEMESH_NAMESPACE")]
    namespace: Option<String>,
    /// Use this context instead of the current one.
    #[arg(long, global = true, env = "SIDEMESH_CONTEXT", value_name = "NAME")]
    context: Option<String>,
}

impl Flags {
    /// Everything put together, files read.
    pub fn server(self) -> Result<Server, Failure> {
        let context = self.chosen()?;
        let read = |flag: &str, path: Option<PathBuf>| match path {
            None => Ok(None),
            Some(path) => match std::fs::read(&path) {
                Ok(content) => Ok(Some(content)),
                Err(e) => Err(Failure::Usage(format!("{flag} {}: {e}", path.display()))),
            },
        };
        let url = self.server.or(context.server).unwrap_or_else(|| DEFAULT_SERVER.to_owned());
        let token = read("--token-file", self.token_file.or(context.token_file))?;
        Ok(Server {
            url,
            namespace: self.namespace.or(context.namespace).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            ca: read("--ca-file", self.ca_file.or(context.ca_file))?,
            token: token.map(|t| String::from_utf8_lossy(&t).trim().to_owned()),
        })
    }

    /// The context to use. One that is named must be there; with `--server` given the current one does not count, since
    /// its credentials belong to its own server.
    fn chosen(&self) -> Result<Context, Failure> {
        if self.context.is_none() && self.server.is_some() {
            return Ok(Context::default());
        }
        let mut file = File::read()?;
        match self.context.clone().or(file.current.take()) {
            None => Ok(Context::default()),
            Some(name) => file.contexts.remove(&name).ok_or_else(|| unknown(&name)),
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Context {
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

impl File {
    fn path() -> Option<PathBuf> {
        if let Some(path) = std::env::var_os("SIDEMESH_CONFIG") {
            return Some(PathBuf::from(path));
        }
        let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
        let config = config.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".config")))?;
        Some(config.join("sidemesh").join("config.yaml"))
    }

    fn read() -> Result<File, Failure> {
        let Some(path) = File::path() else { return Ok(File::default()) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(File::default()),
            Err(e) => return Err(Failure::Usage(format!("{}: {e}", path.display()))),
        };
        let wrong = |e| Failure::Usage(format!("{}: {e}: mend it, or remove it", path.display()));
        serde_yaml_ng::from_str(&text).map_err(wrong)
    }

    /// Written beside and moved into place.
    fn write(&self) -> Result<(), Failure> {
        let path = File::path().ok_or_else(|| Failure::Usage("no HOME: set SIDEMESH_CONFIG to a file".to_owned()))?;
        let text = serde_yaml_ng::to_string(self).map_err(|e| Failure::Failed(e.to_string()))?;
        let beside = path.with_extension("new");
        let write = || {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::write(&beside, text)?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))
    }
}

fn unknown(name: &str) -> Failure {
    Failure::Usage(format!("context {name}: not known; `meshctl context list` lists them"))
}

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// All contexts; the current one is marked.
    List,
    /// Make a context the current one.
    Use { name: String },
    /// Keep --server, --ca-file, --token-file and --namespace, as given, under a name.
    Set { name: String },
    /// Forget a context.
    Delete { name: String },
}

pub fn run(flags: Flags, args: Args) -> Result<ExitCode, Failure> {
    let mut file = File::read()?;
    match args.command {
        Command::List => list(&file)?,
        Command::Use { name } => {
            if !file.contexts.contains_key(&name) {
                return Err(unknown(&name));
            }
            print(&format!("context {name} is the current one\n"))?;
            file.current = Some(name);
            file.write()?;
        }
        Command::Set { name } => {
            let context = file.contexts.entry(name.clone()).or_default();
            update(context, flags)?;
            file.write()?;
            print(&format!("context {name} set\n"))?;
        }
        Command::Delete { name } => {
            file.contexts.remove(&name).ok_or_else(|| unknown(&name))?;
            file.current.take_if(|current| *current == name);
            file.write()?;
            print(&format!("context {name} deleted\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Flags that were not given leave what is there.
fn update(context: &mut Context, flags: Flags) -> Result<(), Failure> {
    let absolute =
        |path: PathBuf| std::path::absolute(&path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())));
    context.server = flags.server.or(context.server.take());
    context.namespace = flags.namespace.or(context.namespace.take());
    context.ca_file = flags.ca_file.map(absolute).transpose()?.or(context.ca_file.take());
    context.token_file = flags.token_file.map(absolute).transpose()?.or(context.token_file.take());
    Ok(())
}

fn list(file: &File) -> Result<(), Failure> {
    let path = |p: &Option<PathBuf>| p.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    let rows: Vec<Vec<String>> = file
        .contexts
        .iter()
        .map(|(name, c)| {
            let mark = if file.current.as_ref() == Some(name) { "*" } else { " " };
            vec![
                mark.to_owned(),
                name.clone(),
                c.server.clone().unwrap_or_default(),
                c.namespace.clone().unwrap_or_default(),
                path(&c.ca_file),
                path(&c.token_file),
            ]
        })
        .collect();
    table(&["CURRENT", "NAME", "SERVER", "NAMESPACE", "CA FILE", "TOKEN FILE"], &rows)
}
