use super::*;

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128, "short form");
    [&[tag, content.len() as u8], content].concat()
}

/// A response of the smallest form for the certificate 0x01f4.
fn response(next_update: Option<&[u8]>) -> Vec<u8> {
    let id = tlv(
        SEQUENCE,
        &[tlv(SEQUENCE, &[]), tlv(OCTET_STRING, &[]), tlv(OCTET_STRING, &[]), tlv(INTEGER, &[1, 0xf4])].concat(),
    );
    let mut single = [id, tlv(0x80, &[]), tlv(GENERALIZED_TIME, b"20260101000000Z")].concat();
    if let Some(text) = next_update {
        single.extend(tlv(CONTEXT_0, &tlv(GENERALIZED_TIME, text)));
    }
    let answers = tlv(SEQUENCE, &tlv(SEQUENCE, &single));
    let data = tlv(SEQUENCE, &[tlv(0xa2, &[]), tlv(GENERALIZED_TIME, b"20260101000000Z"), answers].concat());
    let bytes = tlv(SEQUENCE, &[tlv(6, &[1]), tlv(OCTET_STRING, &tlv(SEQUENCE, &data))].concat());
    tlv(SEQUENCE, &[tlv(10, &[0]), tlv(CONTEXT_0, &bytes)].concat())
}

#[test]
fn a_response_tells_its_certificate_and_its_end() {
    let parsed = parse(&response(Some(b"20260102000000Z"))).expect("well-formed");
    assert_eq!(parsed, Response { serial: vec![1, 0xf4], next_update: Some(1_767_312_000) });
    assert_eq!(parse(&response(None)).expect("well-formed").next_update, None);
    let whole = response(None);
    for n in 0..whole.len() {
        assert_eq!(parse(&whole[..n]), None, "cut at {n}");
    }
}

#[test]
fn the_policy_decides_what_a_missing_or_old_staple_means() {
    let certificate = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).expect("a key");
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a kind that is known");
    let without = Arc::new(CertifiedKey::new(vec![certificate.cert.der().clone()], key));
    let staple = Staple { response: Response { serial: vec![1], next_update: Some(100) }, without };
    for (policy, must, missing, old) in [
        (StaplePolicy::Lenient, false, Verdict::NoStaple, Verdict::NoStaple),
        (StaplePolicy::Strict, false, Verdict::NoStaple, Verdict::Fail),
        (StaplePolicy::Must, false, Verdict::Fail, Verdict::Fail),
        (StaplePolicy::Lenient, true, Verdict::Fail, Verdict::Fail),
    ] {
        assert_eq!(judge(policy, must, Some(&staple), 99), Verdict::Staple, "{policy:?}");
        assert_eq!(judge(policy, must, None, 99), missing, "{policy:?} without");
        assert_eq!(judge(policy, must, Some(&staple), 100), old, "{policy:?} too late");
    }
}
