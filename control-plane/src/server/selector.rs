//! Label selectors in kubectl's equality syntax: `app=product,version!=v1,track`.

use serde_json::Value;

/// All terms must hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selector {
    terms: Vec<Term>,
}

#[derive(Debug, PartialEq, Eq)]
enum Term {
    Equal(String, String),
    NotEqual(String, String),
    Exists(String),
    Missing(String),
}

impl Selector {
    pub fn parse(text: &str) -> Result<Selector, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let terms = parts.map(term).collect::<Result<Vec<_>, _>>()?;
        Ok(Selector { terms })
    }

    pub fn matches(&self, labels: &Value) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Equal(key, value) => labels[key].as_str() == Some(value),
            Term::NotEqual(key, value) => labels[key].as_str() != Some(value),
            Term::Exists(key) => labels[key].is_string(),
            Term::Missing(key) => !labels[key].is_string(),
        })
    }
}

fn term(text: &str) -> Result<Term, String> {
    let (key, make): (&str, fn(String, String) -> Term) = if let Some((key, _)) = text.split_once("!=") {
        (key, Term::NotEqual)
    } else if let Some((key, _)) = text.split_once('=') {
        (key, Term::Equal)
    } else if let Some(key) = text.strip_prefix('!') {
        return Ok(Term::Missing(checked(key)?));
    } else {
        return Ok(Term::Exists(checked(text)?));
    };
    let value = text[key.len()..].trim_start_matches(['!', '=']).trim();
    Ok(make(checked(key)?, value.to_owned()))
}

fn checked(key: &str) -> Result<String, String> {
    let key = key.trim();
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    if key.is_empty() || !key.bytes().all(fine) {
        return Err(format!("`{key}` is not a label name: write for example app=product,version!=v1"));
    }
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms_are_joined_with_and() {
        let labels = json!({ "app": "product", "version": "v2" });
        let matches = |text: &str| Selector::parse(text).map(|s| s.matches(&labels));
        assert_eq!(matches(""), Ok(true));
        assert_eq!(matches("app=product,version!=v1"), Ok(true));
        assert_eq!(matches("app==product, track"), Ok(false));
        assert_eq!(matches("!track"), Ok(true));
        assert!(matches("app in (a)").is_err());
    }
}
