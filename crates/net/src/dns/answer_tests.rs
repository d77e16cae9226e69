use hickory_proto::op::Query;
use proptest::prelude::*;

use super::*;

/// One sandbox's names.
struct Names;

impl NameSource for Names {
    fn lookup(&self, _: &str, name: &str) -> Option<Vec<IpAddr>> {
        match name {
            "web" | "web.front" => Some(vec!["10.0.0.2".parse().unwrap()]),
            "six" => Some(vec!["fd00::6".parse().unwrap()]),
            "many" => Some((1..=100).map(|last| IpAddr::from([10, 0, 1, last])).collect()),
            "none" => Some(Vec::new()),
            _ => None,
        }
    }

    fn reverse(&self, _: &str, address: IpAddr) -> Option<String> {
        match address.to_string().as_str() {
            "10.0.0.2" => Some("web.front".into()),
            "fd00::6" => Some("six_1.front".into()),
            _ => None,
        }
    }
}

const VIEW: View<'static> = View { sandbox: "s", source: &Names, ndots_set: false };

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(message: &Message) -> Option<Message> {
    let bytes = message.to_vec().unwrap();
    match answer(&bytes, Transport::Udp, VIEW) {
        Outcome::Reply(bytes) => {
            let reply = Message::from_vec(&bytes).unwrap();
            assert_eq!(reply.metadata.id, message.metadata.id);
            assert_eq!(reply.metadata.message_type, MessageType::Response);
            assert!(reply.metadata.recursion_available && reply.metadata.recursion_desired);
            Some(reply)
        }
        Outcome::Forward { .. } => None,
        Outcome::Drop => panic!("dropped"),
    }
}

fn answers(name: &str, kind: RecordType) -> Option<Vec<String>> {
    let reply = ask(&query(name, kind))?;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    Some(reply.answers.iter().map(|record| record.data.to_string()).collect())
}

#[test]
fn addresses_of_the_family_that_was_asked_for() {
    assert_eq!(answers("web.", RecordType::A).unwrap(), ["10.0.0.2"]);
    assert_eq!(answers("WEB.front.", RecordType::A).unwrap(), ["10.0.0.2"]);
    assert_eq!(answers("web.", RecordType::AAAA).unwrap(), [""; 0], "known, but not as IPv6");
    assert_eq!(answers("six.", RecordType::AAAA).unwrap(), ["fd00::6"]);
    assert_eq!(answers("six.", RecordType::A).unwrap(), [""; 0]);
    assert_eq!(answers("none.", RecordType::A).unwrap(), [""; 0]);
    assert_eq!(answers("web.", RecordType::ANY).unwrap(), ["10.0.0.2"]);
}

#[test]
fn other_types_of_a_known_name_stay_here() {
    for kind in [RecordType::MX, RecordType::TXT, RecordType::HTTPS, RecordType::SRV] {
        assert_eq!(answers("web.", kind).unwrap(), [""; 0]);
    }
    assert_eq!(answers("example.com.", RecordType::TXT), None);
}

#[test]
fn the_question_comes_back_as_it_was_asked() {
    let reply = ask(&query("WeB.", RecordType::A)).unwrap();
    assert_eq!(reply.queries[0].name().to_ascii(), "WeB.");
    assert_eq!(reply.answers[0].name.to_ascii(), "WeB.");
    assert_eq!(reply.answers[0].ttl, 600);
    assert!(reply.edns.is_none());
}

#[test]
fn reverse_names() {
    assert_eq!(answers("2.0.0.10.in-addr.arpa.", RecordType::PTR).unwrap(), ["web.front."]);
    let six = format!("6.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
    assert_eq!(answers(&six, RecordType::PTR).unwrap(), ["six_1.front."]);
    assert_eq!(answers("3.0.0.10.in-addr.arpa.", RecordType::PTR), None);
    assert_eq!(answers("0.0.10.in-addr.arpa.", RecordType::PTR), None);
    assert_eq!(answers("web.", RecordType::PTR).unwrap(), [""; 0]);
}

#[test]
fn unknown_names_are_forwarded_but_for_bare_ones_where_ndots_says_so() {
    let bytes = query("other.", RecordType::A).to_vec().unwrap();
    let view = View { ndots_set: true, ..VIEW };
    assert_eq!(answer(&bytes, Transport::Udp, VIEW), Outcome::Forward { max_len: 512 });
    assert_eq!(answer(&bytes, Transport::Tcp, VIEW), Outcome::Forward { max_len: 65535 });
    let Outcome::Reply(reply) = answer(&bytes, Transport::Udp, view) else { panic!() };
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0));
    for (name, kind) in [("other.com.", RecordType::A), ("other.", RecordType::MX), (".", RecordType::A)] {
        let bytes = query(name, kind).to_vec().unwrap();
        assert!(matches!(answer(&bytes, Transport::Udp, view), Outcome::Forward { .. }));
    }
    let mut chaos = query("web.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert!(ask(&chaos).is_none());
}

#[test]
fn many_addresses_come_in_another_order_each_time() {
    let mut asked = query("many.", RecordType::A);
    asked.set_edns(Edns::new());
    asked.edns.as_mut().unwrap().set_max_payload(4096);
    let order = || {
        let reply = ask(&asked).unwrap();
        assert!(!reply.metadata.truncation);
        reply.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>()
    };
    let (first, second) = (order(), order());
    assert_eq!(first.len(), 100);
    assert_ne!(first, second);
    let sorted = |mut addresses: Vec<String>| {
        addresses.sort();
        addresses
    };
    assert_eq!(sorted(first), sorted(second));
}

#[test]
fn a_reply_is_no_longer_than_the_client_takes() {
    for (payload, max_len) in [(None, 512), (Some(100), 512), (Some(1232), 1232), (Some(65535), 65535)] {
        let mut message = query("many.", RecordType::A);
        if let Some(payload) = payload {
            message.set_edns(Edns::new());
            message.edns.as_mut().unwrap().set_max_payload(payload).set_dnssec_ok(true);
        }
        let Outcome::Reply(bytes) = answer(&message.to_vec().unwrap(), Transport::Udp, VIEW) else { panic!() };
        assert!(bytes.len() <= max_len);
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.metadata.truncation, reply.answers.len() < 100);
        assert!(reply.answers.len() >= (max_len - 60).min(1600) / 16 - 1, "as many as fit");
        assert_eq!(reply.edns.map(|edns| (edns.version(), edns.flags().dnssec_ok)), payload.map(|_| (0, true)));
    }
    let bytes = query("many.", RecordType::A).to_vec().unwrap();
    let Outcome::Reply(bytes) = answer(&bytes, Transport::Tcp, VIEW) else { panic!() };
    assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 100);
}

#[test]
fn what_is_no_query_is_refused_or_dropped() {
    let code = |bytes: &[u8]| match answer(bytes, Transport::Udp, VIEW) {
        Outcome::Reply(reply) => Some(Message::from_vec(&reply).unwrap().metadata.response_code),
        Outcome::Drop => None,
        Outcome::Forward { .. } => panic!("forwarded"),
    };
    let good = query("web.", RecordType::A);
    assert_eq!(code(&[]), None);
    assert_eq!(code(&[0; 11]), None);
    assert_eq!(code(&good.clone().into_response().to_vec().unwrap()), None, "a reply");
    assert_eq!(code(&[0; 12]), Some(ResponseCode::FormErr), "no question");
    let bytes = good.to_vec().unwrap();
    assert_eq!(code(&bytes[..bytes.len() - 1]), Some(ResponseCode::FormErr));
    let mut claims = bytes.clone();
    claims[4..12].fill(0xff);
    assert_eq!(code(&claims), Some(ResponseCode::FormErr), "65535 records each");
    let mut notify = bytes.clone();
    notify[2] |= 4 << 3;
    assert_eq!(code(&notify), Some(ResponseCode::NotImp));
    let mut newer = good.clone();
    newer.set_edns(Edns::new());
    newer.edns.as_mut().unwrap().set_version(1);
    // BADVERS and BADSIG are the same number.
    assert_eq!(code(&newer.to_vec().unwrap()).map(u16::from), Some(u16::from(ResponseCode::BADVERS)));
    // A name that points to itself.
    let mut looped = bytes[..12].to_vec();
    looped.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(code(&looped), Some(ResponseCode::FormErr));
}

#[test]
fn names_with_strange_bytes_are_nobodys_here() {
    let strange = Name::from_labels(vec![&b"we\0b"[..], &b"a.b"[..]]).unwrap();
    let mut message = query("x.", RecordType::A);
    message.queries[0].set_name(strange);
    assert!(ask(&message).is_none());
}

/// The entry for a fuzzer.
fn any_bytes(bytes: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        if let Outcome::Reply(reply) = answer(bytes, transport, VIEW) {
            let reply = Message::from_vec(&reply).expect("what we send can be read");
            assert_eq!(reply.metadata.message_type, MessageType::Response);
        }
    }
}

proptest! {
    #[test]
    fn hostile_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        any_bytes(&bytes);
    }

    #[test]
    fn reverse_names_of_any_form(labels in "([0-9a-fx]{1,3}\\.){0,40}", v6 in any::<bool>()) {
        let name = format!("{labels}{}.arpa.", if v6 { "ip6" } else { "in-addr" });
        let Ok(name) = Name::from_ascii(&name) else { return Ok(()) };
        let mut message = query(".", RecordType::PTR);
        message.queries[0].set_name(name);
        any_bytes(&message.to_vec().unwrap());
    }

    #[test]
    fn hostile_changes(
        name in "[a-zA-Z0-9_.*\\-]{0,60}",
        kind in any::<u16>(),
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let Ok(name) = Name::from_ascii(&name) else { return Ok(()) };
        let mut message = query(".", RecordType::from(kind));
        message.queries[0].set_name(name);
        message.set_edns(Edns::new());
        let mut bytes = message.to_vec().unwrap();
        bytes.extend(tail);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        any_bytes(&bytes);
    }
}
