//! Edits of a request target's query: what filters set and remove.
//!
//! As Envoy does it: an edited query comes out sorted by parameter, and one without a value as `name=`.

use std::collections::BTreeMap;

use super::exchange::Exchange;
use super::route::split_query;
use crate::codec;

/// A query's parameters, each with its values as they stand in the target (nothing is decoded).
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    fn parse(query: &str) -> Self {
        let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let query = query.strip_prefix('?').unwrap_or(query);
        // What stands between two `&` is a parameter, if only an empty one.
        for pair in query.split_terminator('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.entry(name.to_owned()).or_default().push(value.to_owned());
        }
        Query(parameters)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// One value in place of all.
    pub fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), vec![value]);
    }

    pub fn add(&mut self, name: &str, value: String) {
        self.0.entry(name.to_owned()).or_default().push(value);
    }

    fn write(&self, path: &str) -> String {
        let mut target = path.to_owned();
        let mut separator = '?';
        for (name, values) in &self.0 {
            for value in values {
                target.push(separator);
                push(&mut target, name);
                target.push('=');
                push(&mut target, value);
                separator = '&';
            }
        }
        target
    }
}

/// What a target must not hold is percent-encoded.
fn push(target: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\0'..=' ' | '#' | '\x7f' => target.push_str(&format!("%{:02X}", c as u32)),
            _ => target.push(c),
        }
    }
}

/// Edits the query of the request's target.
pub fn edit(x: &mut Exchange, edit: impl FnOnce(&mut Query)) {
    let (path, query) = split_query(x.target());
    let mut query = Query::parse(query);
    let path = path.to_owned();
    edit(&mut query);
    codec::set_path_and_query(&mut x.parts, &query.write(&path));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_query_is_sorted_and_complete() {
        let mut query = Query::parse("?x=1&k&a=2&x=3&rm=4");
        query.remove("rm");
        query.add("b", "5".to_owned());
        assert_eq!(query.write("/p"), "/p?a=2&b=5&k=&x=1&x=3");
        query.set("x", "6".to_owned());
        assert_eq!(query.write("/p"), "/p?a=2&b=5&k=&x=6");
        assert_eq!(Query::parse("").write("/p"), "/p");
        assert_eq!(Query::parse("?b&&c").write("/p"), "/p?=&b=&c=");
        query.set("x", "6 #".to_owned());
        assert_eq!(query.write("/p"), "/p?a=2&b=5&k=&x=6%20%23");
    }
}
