//! Scoped routes (SRDS): which route table a request is matched against, by a key from its headers.

use std::collections::HashMap;
use std::sync::Arc;

use sidemesh_proto::envoy::config::route::v3 as pb;

use super::{RouteConfig, parse};
use crate::rejection::{Rejection, Within};
use crate::value::{Name, name};
use crate::wire::{non_empty, required};

/// Scopes by their keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScopedRoutes(HashMap<Vec<String>, Arc<ScopedRoute>>);

/// Two scopes have one key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "scope key conflict found, first scope is '{first}', second scope is '{second}'; give each scope a key of its own"
)]
pub struct KeyTaken {
    pub first: Name,
    pub second: Name,
}

impl ScopedRoutes {
    /// # Errors
    /// Another scope has the key; it stays.
    pub fn insert(&mut self, scope: Arc<ScopedRoute>) -> Result<(), KeyTaken> {
        match self.0.get(&scope.key) {
            Some(other) if other.name != scope.name => {
                Err(KeyTaken { first: other.name.clone(), second: scope.name.clone() })
            }
            _ => {
                self.0.insert(scope.key.clone(), scope);
                Ok(())
            }
        }
    }

    /// As [`ScopedRoutes::insert`], in the place of whichever scope has the key.
    pub fn replace(&mut self, scope: Arc<ScopedRoute>) {
        self.0.insert(scope.key.clone(), scope);
    }

    /// Takes out the scope of this name that has `key`.
    pub fn remove(&mut self, key: &[String], name: &str) {
        if self.0.get(key).is_some_and(|scope| &*scope.name == name) {
            self.0.remove(key);
        }
    }

    pub fn get(&self, key: &[String]) -> Option<&Arc<ScopedRoute>> {
        self.0.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<ScopedRoute>> {
        self.0.values()
    }
}

/// `ScopedRouteConfiguration`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopedRoute {
    pub name: Name,
    pub route_config_name: Name,
    pub inline: Option<Arc<RouteConfig>>,
    /// String fragments of the key, in order.
    pub key: Vec<String>,
}

/// A scope: its key, and the route table it names or holds.
pub fn parse_scoped(scope: &pb::ScopedRouteConfiguration) -> Result<ScopedRoute, Rejection> {
    use pb::scoped_route_configuration::key::fragment::Type;
    let inline = match &scope.route_configuration {
        Some(config) => Some(Arc::new(parse(config).within("route_configuration")?)),
        None => None,
    };
    let route_config_name: Name = name(&scope.route_configuration_name);
    if inline.is_some() != route_config_name.is_empty() {
        let reason = "give either route_configuration_name or route_configuration";
        return Err(Rejection::invalid("route_configuration_name", reason));
    }
    let fragments = &required(&scope.key, "key")?.fragments;
    if fragments.is_empty() {
        return Err(Rejection::invalid("key.fragments", "must hold at least one fragment"));
    }
    let key = fragments.iter().enumerate().map(|(i, f)| match &f.r#type {
        Some(Type::StringKey(key)) => Ok(key.clone()),
        None => Err(Rejection::invalid(format!("key.fragments[{i}].string_key"), "is required")),
    });
    Ok(ScopedRoute {
        name: non_empty(&scope.name, "name")?,
        route_config_name,
        inline,
        key: key.collect::<Result<_, _>>()?,
    })
}
