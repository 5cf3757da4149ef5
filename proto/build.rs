//! Builds what `src/` includes:
//!
//! - `sidemesh.rs`: messages, clients and servers of our own APIs under `proto/sidemesh/`, and the few messages of xDS that
//!   `envoy-types` lacks, under `proto/xds/`;
//! - `sidemesh_descriptors.bin`: their descriptors with imports, for gRPC reflection;
//! - `table.rs`: what the protobuf-JSON mapping knows of messages: the Envoy API files named in `descriptors.txt`, pruned
//!   to what they reach, and our own. `descriptor_set.bin` holds the same as a `FileDescriptorSet`: dependent build
//!   scripts find it through the variable `DEP_SIDEMESH_PROTO_DESCRIPTOR_SET`.
//!
//! Envoy's descriptors come from the source folder of `envoy-types`, which ships the compiled set that its Rust types
//! were generated from: no `protoc` is needed and the two cannot differ.

#[path = "build/descriptors.rs"]
mod descriptors;
#[path = "build/envoy_types.rs"]
mod envoy_types;
#[path = "build/table.rs"]
mod table;

use std::collections::HashSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use protox::file::{ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver};

const OWN_ROOT: &str = "proto";
const ROOTS: &str = "descriptors.txt";

fn main() -> Result<(), Box<dyn Error>> {
    for path in ["build.rs", "build", OWN_ROOT, ROOTS] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let envoy = envoy_types::descriptor_set()?;
    let own = compile_own(&envoy)?;
    generate_own(&own)?;
    fs::write(out.join("sidemesh_descriptors.bin"), own.encode_to_vec())?;

    let roots = descriptors::read_roots(&fs::read_to_string(ROOTS)?);
    let pruned = descriptors::prune(merge(envoy, &own), &roots)?;
    let set = out.join("descriptor_set.bin");
    fs::write(&set, pruned.encode_to_vec())?;
    println!("cargo::metadata=descriptor_set={}", set.display());
    fs::write(out.join("table.rs"), table::emit(&pruned)?)?;
    Ok(())
}

/// Compiles every file below `proto/sidemesh`; they may import Envoy's.
fn compile_own(envoy: &FileDescriptorSet) -> Result<FileDescriptorSet, Box<dyn Error>> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(PathBuf::from(OWN_ROOT)));
    resolver.add(GoogleFileResolver::new());
    resolver.add(DescriptorSetFileResolver::new(envoy.clone()));
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).include_source_info(true);
    for path in proto_files(Path::new(OWN_ROOT))? {
        let name = path.strip_prefix(OWN_ROOT)?;
        compiler.open_file(name).map_err(|e| format!("{}: {e:?}", path.display()))?;
    }
    Ok(compiler.file_descriptor_set())
}

fn proto_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(proto_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn generate_own(own: &FileDescriptorSet) -> std::io::Result<()> {
    let mut config = prost_build::Config::new();
    config.enable_type_names().type_name_domain(["."], "type.googleapis.com");
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf")
        .extern_path(".google.rpc", "::envoy_types::pb::google::rpc")
        .extern_path(".envoy", "::envoy_types::pb::envoy")
        .extern_path(".xds.annotations", "::envoy_types::pb::xds::annotations")
        .extern_path(".xds.core", "::envoy_types::pb::xds::core")
        .extern_path(".xds.type.matcher.v3.Matcher", "::envoy_types::pb::xds::r#type::matcher::v3::Matcher")
        .extern_path(
            ".xds.type.matcher.v3.Matcher.OnMatch",
            "::envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch",
        )
        .include_file("sidemesh.rs")
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(own.clone(), config)
}

/// Envoy's files (in their order), then ours.
fn merge(mut envoy: FileDescriptorSet, own: &FileDescriptorSet) -> FileDescriptorSet {
    let known: HashSet<String> = envoy.file.iter().map(|f| f.name().to_owned()).collect();
    let is_new = |file: &&FileDescriptorProto| !known.contains(file.name()) && !file.name().starts_with("google/");
    envoy.file.extend(own.file.iter().filter(is_new).cloned());
    envoy
}
