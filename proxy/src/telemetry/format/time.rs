//! Civil time and `strftime`, with Envoy's additions (`%3f`, `%s`), in UTC or the machine's zone.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A UTC date and time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    pub year: i64,
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    pub nanos: u32,
    /// 0 is Sunday.
    pub weekday: u32,
    /// Day of the year, from 1.
    pub yearday: u32,
    pub unix: i64,
    /// Seconds east of UTC.
    pub offset: i32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Civil {
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let unix = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let days = unix / 86_400;
        let seconds = (unix % 86_400) as u32;
        let (year, month, day) = civil_from_days(days);
        let yearday = (days - days_from_civil(year, 1, 1)) as u32 + 1;
        Civil {
            year,
            month,
            day,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            nanos: since.subsec_nanos(),
            weekday: ((days + 4) % 7) as u32,
            yearday,
            unix,
            offset: 0,
        }
    }

    /// In the machine's zone.
    pub fn local(time: SystemTime) -> Self {
        let unix = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        let offset = super::zone::offset(unix);
        let shifted = match u64::try_from(offset) {
            Ok(east) => time + Duration::from_secs(east),
            Err(_) => time - Duration::from_secs(offset.unsigned_abs().into()),
        };
        Civil { unix, offset, ..Civil::of(shifted) }
    }

    /// `+0100`, with `between` hours and minutes.
    fn zone(&self, between: &str) -> String {
        let minutes = self.offset.unsigned_abs() / 60;
        let sign = if self.offset < 0 { '-' } else { '+' };
        format!("{sign}{:02}{between}{:02}", minutes / 60, minutes % 60)
    }

    /// `2026-01-02T03:04:05.678Z`.
    pub fn iso_millis(&self) -> String {
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            self.year,
            self.month,
            self.day,
            self.hour,
            self.minute,
            self.second,
            self.nanos / 1_000_000
        )
    }
}

/// Days since 1970-01-01 to (year, month, day): the proleptic Gregorian calendar in eras of 400 years.
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = i64::from(month);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// `strftime` over `pattern`; a conversion that is not known is printed as it stands.
pub fn strftime(pattern: &str, t: &Civil) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let digits = chars.peek().and_then(|c| c.to_digit(10)).filter(|d| (1..=9).contains(d));
        if digits.is_some() {
            chars.next();
        }
        match chars.next() {
            Some('E') if digits.is_none() => extended(&mut out, &mut chars, t),
            Some('f') => push_fraction(&mut out, t.nanos, digits.unwrap_or(9)),
            Some(c) => conversion(&mut out, c, t),
            None => out.push('%'),
        }
    }
    out
}

/// `%Ez`, `%E3S`, `%E*S`, `%E3f`, `%E*f`: `*` stands for as many digits as there are.
fn extended(out: &mut String, chars: &mut std::iter::Peekable<std::str::Chars<'_>>, t: &Civil) {
    let digits = match chars.peek() {
        Some('*') => Some(None),
        Some(c) => c.to_digit(10).map(Some),
        None => None,
    };
    if digits.is_some() {
        chars.next();
    }
    match (chars.next(), digits) {
        (Some('z'), None) => out.push_str(&t.zone(":")),
        (Some(c @ ('S' | 'f')), Some(digits)) => {
            let full = format!("{:09}", t.nanos);
            let fraction = match digits {
                Some(n) => &full[..(n as usize).min(9)],
                None => full.trim_end_matches('0'),
            };
            if c == 'S' {
                let _ = write!(out, "{:02}", t.second);
                if !fraction.is_empty() {
                    out.push('.');
                }
            }
            out.push_str(fraction);
        }
        (Some(c), _) => {
            out.push_str("%E");
            out.push(c);
        }
        (None, _) => out.push_str("%E"),
    }
}

fn push_fraction(out: &mut String, nanos: u32, digits: u32) {
    let _ = write!(out, "{:0width$}", nanos / 10u32.pow(9 - digits), width = digits as usize);
}

fn conversion(out: &mut String, c: char, t: &Civil) {
    let month = MONTHS[(t.month as usize + 11) % 12];
    let day = DAYS[t.weekday as usize % 7];
    let hour12 = if t.hour.is_multiple_of(12) { 12 } else { t.hour % 12 };
    let _ = match c {
        'Y' => write!(out, "{}", t.year),
        'y' => write!(out, "{:02}", t.year % 100),
        'm' => write!(out, "{:02}", t.month),
        'd' => write!(out, "{:02}", t.day),
        'e' => write!(out, "{:2}", t.day),
        'H' => write!(out, "{:02}", t.hour),
        'I' => write!(out, "{hour12:02}"),
        'M' => write!(out, "{:02}", t.minute),
        'S' => write!(out, "{:02}", t.second),
        'j' => write!(out, "{:03}", t.yearday),
        'p' => out.write_str(if t.hour < 12 { "AM" } else { "PM" }),
        'B' => out.write_str(month),
        'b' | 'h' => out.write_str(&month[..3]),
        'A' => out.write_str(day),
        'a' => out.write_str(&day[..3]),
        'u' => write!(out, "{}", if t.weekday == 0 { 7 } else { t.weekday }),
        'w' => write!(out, "{}", t.weekday),
        's' => write!(out, "{}", t.unix),
        'z' => out.write_str(&t.zone("")),
        'Z' if t.offset == 0 => out.write_str("UTC"),
        'Z' => out.write_str(&t.zone("")),
        'T' => write!(out, "{:02}:{:02}:{:02}", t.hour, t.minute, t.second),
        'R' => write!(out, "{:02}:{:02}", t.hour, t.minute),
        'F' => write!(out, "{}-{:02}-{:02}", t.year, t.month, t.day),
        'D' => write!(out, "{:02}/{:02}/{:02}", t.month, t.day, t.year % 100),
        'n' => out.write_str("\n"),
        't' => out.write_str("\t"),
        '%' => out.write_str("%"),
        other => write!(out, "%{other}"),
    };
}
