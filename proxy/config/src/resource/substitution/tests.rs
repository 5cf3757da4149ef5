use serde_json::{Value, json};

use super::*;

fn read<T: prost::Message + Default + prost::Name>(value: Value) -> T {
    sidemesh_proto::json::parse(&T::full_name(), &value).expect("test input")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Rejection>, expected: &str) {
    assert_eq!(result.expect_err("must be refused").to_string(), expected);
}

#[test]
fn json_formats_keep_structure_and_literals() {
    let format: core::SubstitutionFormatString = read(json!({
        "json_format": { "n": 1.5, "code": "%RESPONSE_CODE%", "in": { "list": ["x", "%PROTOCOL%"] } },
        "omit_empty_values": true,
        "json_format_options": { "sort_properties": true },
        "formatters": [{ "name": "m", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.formatter.metadata.v3.Metadata" } }] }));
    let LogFormat::Json { format, omit_empty: true, sort_properties: true } = log_format(&format, "f").expect("valid")
    else {
        panic!("no JSON");
    };
    let operator = |text: &str| JsonFormat::Value(std::sync::Arc::new(parse(text).expect(text)));
    let list = JsonFormat::List(vec![JsonFormat::Literal("x".into()), operator("%PROTOCOL%")]);
    assert_eq!(
        *format,
        JsonFormat::Object(vec![
            ("code".into(), operator("%RESPONSE_CODE%")),
            ("in".into(), JsonFormat::Object(vec![("list".into(), list)])),
            ("n".into(), JsonFormat::Literal(json!(1.5))),
        ])
    );
    let bad: core::SubstitutionFormatString = read(json!({ "json_format": { "a": { "b": "%X%" } } }));
    refused(log_format(&bad, "f"), "f.json_format.a.b: invalid: at position 0 of the format: unknown operator `X`");
}

#[test]
fn header_edits_read_actions_and_refuse_what_envoy_refuses() {
    let add = |value: Value| header_edits(&[read::<core::HeaderValueOption>(value)], &[], "request_headers");
    let edits = add(json!({ "header": { "key": "X-A", "value": "%PROTOCOL%" }, "append_action": "ADD_IF_ABSENT",
        "keep_empty_value": true }))
    .expect("valid");
    assert_eq!(edits.add[0].target, HeaderTarget::Header(http::HeaderName::from_static("x-a")));
    assert_eq!((edits.add[0].action, edits.add[0].keep_empty_value), (AppendAction::AddIfAbsent, true));
    let old = add(json!({ "header": { "key": "a", "value": "b" }, "append": false })).expect("valid");
    assert_eq!(old.add[0].action, AppendAction::OverwriteIfExistsOrAdd);
    for key in [":path", "Host", ":authority"] {
        refused(
            add(json!({ "header": { "key": key, "value": "b" } })),
            "request_headers_to_add[0].header.key: invalid: :-prefixed or host headers may not be modified",
        );
    }
    refused(
        add(json!({ "header": { "key": "a", "value": "%X%" } })),
        "request_headers_to_add[0].header.value: invalid: at position 0 of the format: unknown operator `X`",
    );
    refused(
        header_edits(&[], &["host".into()], "response_headers"),
        "response_headers_to_remove[0]: invalid: `host`: :-prefixed or host headers may not be removed",
    );
}
