//! Groups of metrics, declared once with [`stats_group!`](crate::stats_group).

use sidemesh_config::value::Name;

use super::{Answers, ClassCounters, CodeCounters, Counter, Gauge, Histogram, LazyCounter, Levels, Named, TextReadout};

/// What a group shows a reader, metric by metric.
pub enum Visit<'a> {
    Counter(u64),
    /// `None`: nobody has touched it.
    Gauge(Option<i64>),
    Text(Name),
    Histogram(&'a Histogram),
}

/// A struct of metrics that the registry can read.
pub trait Group: std::any::Any + Send + Sync {
    /// Calls `each` with every metric's name (below the scope's prefix) and value.
    fn visit(&self, each: &mut dyn FnMut(&str, Visit<'_>));
}

/// One field of a group.
pub trait Metric {
    fn visit(&self, name: &str, each: &mut dyn FnMut(&str, Visit<'_>));
}

impl Metric for Counter {
    fn visit(&self, name: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        each(name, Visit::Counter(self.get()));
    }
}

impl Metric for LazyCounter {
    fn visit(&self, name: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        if self.get() > 0 {
            Counter::visit(self, name, each);
        }
    }
}

impl Metric for Gauge {
    fn visit(&self, name: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        each(name, Visit::Gauge(self.read()));
    }
}

impl Metric for TextReadout {
    fn visit(&self, name: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        each(name, Visit::Text(self.get()));
    }
}

impl Metric for Histogram {
    fn visit(&self, name: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        each(name, Visit::Histogram(self));
    }
}

impl Metric for CodeCounters {
    fn visit(&self, name: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        self.each(name, each);
    }
}

impl Metric for ClassCounters {
    fn visit(&self, name: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        self.each(name, each);
    }
}

impl Metric for Named {
    fn visit(&self, name: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        self.each(name, each);
    }
}

impl Metric for Levels {
    fn visit(&self, name: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        self.each(name, each);
    }
}

impl Metric for Answers {
    fn visit(&self, name: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        self.each(name, each);
    }
}

/// Declares a struct of metrics and its [`Group`]. A field's name is the metric's; `= "a.b"` gives another.
///
/// ```ignore
/// stats_group! {
///     /// What is counted of a listener.
///     pub struct ListenerStats {
///         downstream_cx_total: Counter,
///         cx_open: Gauge = "circuit_breakers.default.cx_open",
///     }
/// }
/// ```
#[macro_export]
macro_rules! stats_group {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$field_meta:meta])* $field:ident : $kind:ident $(= $label:literal)?),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        $vis struct $name { $($(#[$field_meta])* pub $field: $crate::telemetry::stats::$kind),* }
        impl $crate::telemetry::stats::Group for $name {
            fn visit(&self, each: &mut dyn FnMut(&str, $crate::telemetry::stats::Visit<'_>)) {
                $($crate::telemetry::stats::Metric::visit(&self.$field, $crate::stats_group!(@label $field $($label)?), each);)*
            }
        }
    };
    (@label $field:ident) => { stringify!($field) };
    (@label $field:ident $label:literal) => { $label };
}
