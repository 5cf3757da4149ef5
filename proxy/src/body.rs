//! The one HTTP body type. It lives with the codecs, whose streaming bodies it carries; everybody names it from here.
pub use crate::codec::body::*;
