//! Shares of versions, in percent. Pure.

/// A version's share: `("v2", 20)`.
pub type Share = (String, u32);

/// `v2=20` or `v2=20%`.
pub fn parse_share(text: &str) -> Result<Share, String> {
    let wrong = || format!("`{text}`: write it as VERSION=PERCENT, for example v2=20");
    let (version, percent) = text.split_once('=').ok_or_else(wrong)?;
    let percent: u32 = percent.trim_end_matches('%').parse().map_err(|_| wrong())?;
    if version.is_empty() {
        return Err(wrong());
    }
    if percent > 100 {
        return Err(format!("`{text}`: a share is at most 100 percent"));
    }
    Ok((version.to_owned(), percent))
}

/// Gives `share` to one version and scales the others to what is left, in their old proportions (evenly when they had
/// none). Whole percents, the largest remainders rounded up, so that the sum is 100.
pub fn shift(old: &[Share], share: &Share) -> Result<Vec<Share>, String> {
    let (version, percent) = share;
    let others: Vec<&Share> = old.iter().filter(|(v, _)| v != version).collect();
    let rest = 100 - percent;
    if others.is_empty() && rest > 0 {
        return Err(format!("{version} is the only version: it cannot have less than 100 percent"));
    }
    let total: u64 = others.iter().map(|(_, w)| u64::from(*w)).sum();
    let part = |weight: u32| if total == 0 { 1.0 / others.len() as f64 } else { f64::from(weight) / total as f64 };
    let exact: Vec<f64> = others.iter().map(|(_, w)| part(*w) * f64::from(rest)).collect();
    let mut whole: Vec<u32> = exact.iter().map(|e| e.floor() as u32).collect();
    let mut order: Vec<usize> = (0..whole.len()).collect();
    order.sort_by(|a, b| (exact[*b] - exact[*b].floor()).total_cmp(&(exact[*a] - exact[*a].floor())));
    let missing = rest.saturating_sub(whole.iter().sum()) as usize;
    for index in order.into_iter().cycle().take(missing) {
        whole[index] += 1;
    }
    let mut others = others.into_iter().zip(whole).map(|((v, _), w)| (v.clone(), w));
    let mut result: Vec<Share> = Vec::with_capacity(old.len() + 1);
    for (v, _) in old {
        if v == version {
            result.push(share.clone());
        } else if let Some(next) = others.next() {
            result.push(next);
        }
    }
    if !result.iter().any(|(v, _)| v == version) {
        result.push(share.clone());
    }
    Ok(result)
}

/// The given shares, which must name each version once and sum to 100. Versions left out get nothing.
pub fn split(old: &[Share], shares: &[Share]) -> Result<Vec<Share>, String> {
    let total: u32 = shares.iter().map(|(_, p)| p).sum();
    if total != 100 {
        return Err(format!("the shares sum to {total} percent; they must sum to 100"));
    }
    for (i, (version, _)) in shares.iter().enumerate() {
        if shares[..i].iter().any(|(v, _)| v == version) {
            return Err(format!("{version} is given twice"));
        }
    }
    let left_out = old.iter().filter(|(v, _)| !shares.iter().any(|(s, _)| s == v)).map(|(v, _)| (v.clone(), 0));
    Ok(shares.iter().cloned().chain(left_out).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(text: &str) -> Vec<Share> {
        text.split_whitespace().map(|s| parse_share(s).expect("share")).collect()
    }

    #[track_caller]
    fn check_shift(old: &str, share: &str, expected: &str) {
        assert_eq!(shift(&shares(old), &shares(share)[0]), Ok(shares(expected)));
    }

    #[test]
    fn a_shift_leaves_the_rest_in_proportion() {
        check_shift("v1=100 v2=0", "v2=20", "v1=80 v2=20");
        check_shift("v1=60 v2=20 v3=20", "v3=50", "v1=38 v2=12 v3=50");
        check_shift("v1=50 v2=50", "v3=10", "v1=45 v2=45 v3=10");
        check_shift("v1=0 v2=0 v3=100", "v3=50", "v1=25 v2=25 v3=50");
        check_shift("v1=100", "v1=100", "v1=100");
    }

    #[test]
    fn impossible_shares_are_refused_with_the_reason() {
        assert!(shift(&shares("v1=100"), &("v1".to_owned(), 50)).expect_err("alone").contains("only version"));
        assert!(split(&[], &shares("v1=50 v2=20")).expect_err("sum").contains("70"));
        assert!(split(&[], &shares("v1=50 v1=50")).expect_err("twice").contains("twice"));
        for bad in ["v1", "=5", "v1=x", "v1=-1", "v1=101"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_split_gives_nothing_to_versions_it_does_not_name() {
        assert_eq!(split(&shares("v1=90 v9=10"), &shares("v1=80 v2=20")), Ok(shares("v1=80 v2=20 v9=0")));
    }
}
