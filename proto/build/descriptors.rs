//! Cuts a descriptor set down to what the roots reach.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet, MessageOptions};

/// Lines of `descriptors.txt`: a file, or a folder (ends in `/`) with all its files; `#` begins a comment.
pub(crate) fn read_roots(text: &str) -> Vec<String> {
    text.lines().map(|l| l.split('#').next().unwrap_or("").trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

/// Where a top-level message or enum stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Message(usize, usize),
    Enum(usize, usize),
}

impl Item {
    fn file(self) -> usize {
        match self {
            Item::Message(file, _) | Item::Enum(file, _) => file,
        }
    }
}

/// Keeps the messages and enums that the files of `roots` (and our own files) reach; drops comments and options.
pub(crate) fn prune(set: FileDescriptorSet, roots: &[String]) -> Result<FileDescriptorSet, String> {
    let owners = owners(&set);
    let mut used = vec![false; roots.len()];
    let mut pending = Vec::new();
    for (index, file) in set.file.iter().enumerate() {
        let own = file.name().starts_with("sidemesh/");
        let mut wanted = own;
        for (root, used) in roots.iter().zip(&mut used) {
            if file.name() == root || (root.ends_with('/') && file.name().starts_with(root.as_str())) {
                (*used, wanted) = (true, true);
            }
        }
        if wanted {
            pending.extend((0..file.message_type.len()).map(|m| Item::Message(index, m)));
            pending.extend((0..file.enum_type.len()).map(|e| Item::Enum(index, e)));
        }
    }
    if let Some(position) = used.iter().position(|used| !used) {
        return Err(format!("descriptors.txt: envoy-types has no file `{}`", roots[position]));
    }

    let mut kept: BTreeMap<Item, BTreeSet<usize>> = BTreeMap::new();
    while let Some(item) = pending.pop() {
        if kept.contains_key(&item) {
            continue;
        }
        let mut names = Vec::new();
        if let Item::Message(file, message) = item {
            references(&set.file[file].message_type[message], &mut names);
        }
        let mut files = BTreeSet::new();
        for name in names {
            let target = *owners.get(name).ok_or_else(|| format!("type {name} is in no file"))?;
            pending.push(target);
            if target.file() != item.file() {
                files.insert(target.file());
            }
        }
        kept.insert(item, files);
    }
    Ok(FileDescriptorSet { file: rebuild(&set, &kept) })
}

/// Full name (with the leading dot that references carry) of every message and enum, to its top-level item.
fn owners(set: &FileDescriptorSet) -> HashMap<String, Item> {
    fn nested(prefix: &str, message: &DescriptorProto, item: Item, owners: &mut HashMap<String, Item>) {
        let name = format!("{prefix}.{}", message.name());
        for inner in &message.nested_type {
            nested(&name, inner, item, owners);
        }
        for inner in &message.enum_type {
            owners.insert(format!("{name}.{}", inner.name()), item);
        }
        owners.insert(name, item);
    }
    let mut owners = HashMap::new();
    for (file_index, file) in set.file.iter().enumerate() {
        let prefix = if file.package().is_empty() { String::new() } else { format!(".{}", file.package()) };
        for (index, message) in file.message_type.iter().enumerate() {
            nested(&prefix, message, Item::Message(file_index, index), &mut owners);
        }
        for (index, item) in file.enum_type.iter().enumerate() {
            owners.insert(format!("{prefix}.{}", item.name()), Item::Enum(file_index, index));
        }
    }
    owners
}

fn references<'a>(message: &'a DescriptorProto, names: &mut Vec<&'a str>) {
    names.extend(message.field.iter().filter(|f| f.type_name.is_some()).map(|f| f.type_name()));
    for inner in &message.nested_type {
        references(inner, names);
    }
}

fn rebuild(set: &FileDescriptorSet, kept: &BTreeMap<Item, BTreeSet<usize>>) -> Vec<FileDescriptorProto> {
    let mut files: BTreeMap<usize, (FileDescriptorProto, BTreeSet<usize>)> = BTreeMap::new();
    for (item, dependencies) in kept {
        let source = &set.file[item.file()];
        let (file, needs) = files.entry(item.file()).or_insert_with(|| {
            let file = FileDescriptorProto {
                name: source.name.clone(),
                package: source.package.clone(),
                syntax: source.syntax.clone(),
                ..Default::default()
            };
            (file, BTreeSet::new())
        });
        needs.extend(dependencies);
        match *item {
            Item::Message(_, index) => file.message_type.push(bare_message(&source.message_type[index])),
            Item::Enum(_, index) => file.enum_type.push(bare_enum(&source.enum_type[index])),
        }
    }
    sorted(files).into_iter().map(|(file, needs)| with_dependencies(set, file, &needs)).collect()
}

fn with_dependencies(
    set: &FileDescriptorSet,
    mut file: FileDescriptorProto,
    needs: &BTreeSet<usize>,
) -> FileDescriptorProto {
    file.dependency = needs.iter().map(|&i| set.file[i].name().to_owned()).collect();
    file
}

/// Files after the files that they need.
fn sorted(
    mut files: BTreeMap<usize, (FileDescriptorProto, BTreeSet<usize>)>,
) -> Vec<(FileDescriptorProto, BTreeSet<usize>)> {
    let mut done = BTreeSet::new();
    let mut order = Vec::with_capacity(files.len());
    while !files.is_empty() {
        let ready: Vec<usize> =
            files.iter().filter(|(_, (_, needs))| needs.is_subset(&done)).map(|(&index, _)| index).collect();
        assert!(!ready.is_empty(), "the .proto files import each other in a circle");
        for index in ready {
            order.extend(files.remove(&index));
            done.insert(index);
        }
    }
    order
}

fn bare_message(message: &DescriptorProto) -> DescriptorProto {
    let map_entry = message.options.as_ref().and_then(|o| o.map_entry);
    let mut bare = DescriptorProto {
        name: message.name.clone(),
        field: message.field.clone(),
        nested_type: message.nested_type.iter().map(bare_message).collect(),
        enum_type: message.enum_type.iter().map(bare_enum).collect(),
        oneof_decl: message.oneof_decl.clone(),
        options: map_entry.map(|_| MessageOptions { map_entry, ..Default::default() }),
        ..Default::default()
    };
    for field in &mut bare.field {
        field.options = None;
    }
    for oneof in &mut bare.oneof_decl {
        oneof.options = None;
    }
    bare
}

fn bare_enum(source: &EnumDescriptorProto) -> EnumDescriptorProto {
    let mut value = source.value.clone();
    for value in &mut value {
        value.options = None;
    }
    // Aliases need their option to stay valid.
    let options = source
        .options
        .as_ref()
        .filter(|o| o.allow_alias())
        .map(|_| prost_types::EnumOptions { allow_alias: Some(true), ..Default::default() });
    EnumDescriptorProto { name: source.name.clone(), value, options, ..Default::default() }
}
