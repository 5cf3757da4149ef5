//! Path specifiers of `route.v3.RouteMatch`.

use http::Method;

use super::string::FullRegex;

#[derive(Debug, Clone, PartialEq)]
pub enum PathMatcher {
    Prefix {
        value: String,
        case_sensitive: bool,
    },
    Exact {
        value: String,
        case_sensitive: bool,
    },
    /// On the path without its query.
    Regex(FullRegex),
    /// Kept without a trailing slash.
    SeparatedPrefix {
        value: String,
        case_sensitive: bool,
    },
    /// CONNECT requests.
    Connect,
    UriTemplate(UriTemplate),
}

impl PathMatcher {
    /// Whether `path` (without query) matches. A CONNECT request without a path reaches `Connect` matchers only.
    pub fn matches(&self, method: &Method, path: &str) -> bool {
        if let PathMatcher::Connect = self {
            return *method == Method::CONNECT;
        }
        if *method == Method::CONNECT && !path.starts_with('/') {
            return false;
        }
        match self {
            PathMatcher::Prefix { value, case_sensitive } => has_prefix(path, value, *case_sensitive),
            PathMatcher::Exact { value, case_sensitive: true } => path == value,
            PathMatcher::Exact { value, case_sensitive: false } => path.eq_ignore_ascii_case(value),
            PathMatcher::Regex(regex) => regex.is_match(path),
            PathMatcher::SeparatedPrefix { value, case_sensitive } => {
                has_prefix(path, value, *case_sensitive)
                    && matches!(path.as_bytes().get(value.len()), None | Some(b'/'))
            }
            PathMatcher::UriTemplate(template) => template.regex.is_match(path),
            PathMatcher::Connect => false,
        }
    }
}

fn has_prefix(path: &str, prefix: &str, case_sensitive: bool) -> bool {
    if case_sensitive {
        path.starts_with(prefix)
    } else {
        path.as_bytes().get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix.as_bytes()))
    }
}

/// `path_match_policy` with `uri_template`: compiled to a regular expression with named variables.
#[derive(Debug, Clone, PartialEq)]
pub struct UriTemplate {
    pub template: String,
    pub regex: FullRegex,
    pub variables: Vec<String>,
}

/// The most variables one template may name.
const MAX_VARIABLES: usize = 5;
/// What `*` matches: one path segment.
const SEGMENT: &str = "[a-zA-Z0-9\\-._~%!$&'()*+,;=:@]+";
/// What `**` matches: any number of segments.
const SEGMENTS: &str = "[a-zA-Z0-9\\-._~%!$&'()*+,;=:@/]*";

impl UriTemplate {
    /// Compiles a template; the error says what is wrong with it.
    pub fn new(template: &str) -> Result<Self, String> {
        if !template.starts_with('/') {
            return Err(format!("path template `{template}` must start with `/`"));
        }
        let mut compiler = Compiler { regex: String::new(), variables: Vec::new(), ended: false };
        compiler.pattern(template, true)?;
        let regex = FullRegex::new(&compiler.regex).map_err(|e| e.to_string())?;
        Ok(UriTemplate { template: template.to_owned(), regex, variables: compiler.variables })
    }
}

struct Compiler {
    regex: String,
    variables: Vec<String>,
    /// `**` was seen: only literal text may follow.
    ended: bool,
}

impl Compiler {
    fn pattern(&mut self, mut rest: &str, variables: bool) -> Result<(), String> {
        while let Some(first) = rest.chars().next() {
            rest = match first {
                '*' => self.wildcard(rest)?,
                '{' if variables => self.variable(&rest[1..])?,
                '{' | '}' => return Err(format!("`{first}` is not allowed at `{rest}`")),
                c if is_literal(c) => {
                    self.regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
                    &rest[c.len_utf8()..]
                }
                c => return Err(format!("character `{c}` is not allowed in a path template")),
            };
        }
        Ok(())
    }

    fn wildcard<'r>(&mut self, rest: &'r str) -> Result<&'r str, String> {
        if self.ended {
            return Err("`**` must be the last operator of a path template".to_owned());
        }
        let many = rest.starts_with("**");
        self.ended = many;
        self.regex.push_str(if many { SEGMENTS } else { SEGMENT });
        Ok(&rest[if many { 2 } else { 1 }..])
    }

    /// `name}` or `name=pattern}`; what follows is returned.
    fn variable<'r>(&mut self, rest: &'r str) -> Result<&'r str, String> {
        let (inner, after) = rest.split_once('}').ok_or_else(|| format!("variable `{{{rest}` is not closed"))?;
        let (name, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(format!("`{name}` is no variable name (letters, digits, `_`; a letter first)"));
        }
        if self.variables.iter().any(|v| v == name) {
            return Err(format!("variable `{name}` is named twice"));
        }
        if self.variables.len() == MAX_VARIABLES {
            return Err(format!("more than {MAX_VARIABLES} variables"));
        }
        if pattern.is_empty() {
            return Err(format!("variable `{name}` has an empty pattern"));
        }
        self.variables.push(name.to_owned());
        self.regex.push_str(&format!("(?P<{name}>"));
        self.pattern(pattern, false)?;
        self.regex.push(')');
        Ok(after)
    }
}

fn is_literal(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=/".contains(c)
}
