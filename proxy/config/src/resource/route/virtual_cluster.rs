//! `VirtualCluster`: a name under which requests of a virtual host are counted apart.

use sidemesh_proto::envoy::config::route::v3 as pb;

use crate::matcher::RequestView;
use crate::matcher::header::HeaderMatcher;
use crate::matcher::parse as matcher;
use crate::rejection::{Rejection, Within};
use crate::value::Name;
use crate::wire::non_empty;

#[derive(Debug, Clone, PartialEq)]
pub struct VirtualCluster {
    pub name: Name,
    pub headers: Vec<HeaderMatcher>,
}

/// What requests are counted under that no virtual cluster takes.
pub const OTHER: &str = "other";

/// The first that takes the request, else [`OTHER`]; `None`: there are none.
pub fn select(clusters: &[VirtualCluster], view: &RequestView<'_>) -> Option<Name> {
    let first = clusters.iter().find(|c| c.headers.iter().all(|m| m.matches(view)));
    (!clusters.is_empty()).then(|| first.map_or_else(|| OTHER.into(), |c| c.name.clone()))
}

pub(super) fn parse(list: &[pb::VirtualCluster]) -> Result<Vec<VirtualCluster>, Rejection> {
    let one = |cluster: &pb::VirtualCluster| {
        if cluster.headers.is_empty() {
            return Err(Rejection::invalid("headers", "must hold at least one matcher"));
        }
        Ok(VirtualCluster {
            name: non_empty(&cluster.name, "name")?,
            headers: matcher::headers(&cluster.headers, "headers")?,
        })
    };
    list.iter().enumerate().map(|(i, c)| one(c).within_index("virtual_clusters", i)).collect()
}
