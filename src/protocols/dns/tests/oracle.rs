//! The same bytes read by the crate simple-dns.

use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, ResourceRecord, TYPE, rdata};

use super::*;

/// Messages that the crate writes are read as it wrote them, compressed or not.
#[test]
fn reads_what_the_crate_writes() {
    let kinds = [TYPE::A, TYPE::AAAA, TYPE::CNAME, TYPE::MX, TYPE::SRV, TYPE::NS, TYPE::PTR, TYPE::TXT, TYPE::SOA];
    for (index, kind) in kinds.into_iter().enumerate() {
        for compressed in [false, true] {
            let id = index as u16 + 1;
            let text = format!("host{index}.Shop.test");
            let mut asked = Packet::new_query(id);
            asked.set_flags(PacketFlag::RECURSION_DESIRED);
            let question = || Question::new(Name::new_unchecked(&text).into_owned(), QTYPE::TYPE(kind), CLASS::IN.into(), false);
            asked.questions.push(question());
            let mut told = Packet::new_reply(id);
            told.questions.push(question());
            let record = |owner: &str, data| ResourceRecord::new(Name::new_unchecked(owner).into_owned(), CLASS::IN, 77, data);
            let alias = rdata::RData::CNAME(rdata::CNAME(Name::new_unchecked("alias.shop.test")));
            told.answers.push(record(&text, alias));
            let v4 = rdata::A { address: u32::from(std::net::Ipv4Addr::new(192, 0, 2, 10)) };
            told.answers.push(record("alias.shop.test", rdata::RData::A(v4)));
            let srv = rdata::SRV { priority: 0, weight: 1, port: 8080, target: Name::new_unchecked("web.shop.test") };
            told.answers.push(record(&text, rdata::RData::SRV(srv)));
            let write = |packet: &Packet<'_>| if compressed { packet.build_bytes_vec_compressed() } else { packet.build_bytes_vec() };
            let (asked, told) = (write(&asked).unwrap(), write(&told).unwrap());
            assert!((DATAGRAMS.likeness)(Flow::Request, &asked) == crate::protocols::Likeness::Certain, "{kind:?}");
            assert!((DATAGRAMS.likeness)(Flow::Response, &told) == crate::protocols::Likeness::Likely, "{kind:?}");
            let mut socket = Socket::new();
            socket.pass(Flow::Request, &asked).pass(Flow::Response, &told);
            assert_eq!(socket.summaries(), [format!("{kind:?} host{index}.shop.test NOERROR")]);
            let exchange = &socket.seen.exchanges[0];
            assert_eq!(exchange.text("dns.answers"), Some("alias.shop.test,192.0.2.10,web.shop.test:8080"));
            let resolved = socket.seen.resolved.len();
            assert_eq!(resolved, usize::from(matches!(kind, TYPE::A | TYPE::AAAA)), "{kind:?}");
        }
    }
}

/// Recorded messages are read as the crate reads them.
#[test]
fn reads_recorded_messages_as_the_crate_does() {
    for name in super::golden::NAMES {
        let calls = crate::protocols::testing::golden::calls("dns", name);
        let mut read = 0;
        for flow in [Flow::Request, Flow::Response] {
            let bytes: Vec<u8> = calls.iter().filter(|call| call.0 == flow).flat_map(|call| call.1.clone()).collect();
            let mut rest = &bytes[..];
            while let Some((prefix, behind)) = rest.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*prefix));
                let (message, behind) = behind.split_at(length);
                rest = behind;
                // The crate refuses types that it does not know.
                if message.windows(4).any(|bytes| bytes == [0xff, 0, 0, 1]) {
                    continue;
                }
                let packet = Packet::parse(message).unwrap_or_else(|error| panic!("{name}: {error}"));
                let head = crate::protocols::dns::message::Head::read(message).unwrap();
                assert_eq!((head.id, head.is_response()), (packet.id(), flow == Flow::Response), "{name}");
                let counts = (head.questions as usize, head.answers as usize, head.authorities as usize);
                assert_eq!(counts, (packet.questions.len(), packet.answers.len(), packet.name_servers.len()), "{name}");
                let mut text = String::new();
                crate::protocols::dns::message::write_name(message, 12, &mut text).unwrap();
                assert_eq!(text, packet.questions[0].qname.to_string().to_lowercase(), "{name}");
                let answer = crate::protocols::dns::answer::Answer::read(message, head, length).unwrap();
                assert!(!answer.cut, "{name}");
                let ours: Vec<(u16, u32)> = answer.answers().map(|record| (record.kind, record.ttl)).collect();
                let theirs: Vec<(u16, u32)> = packet.answers.iter().map(|one| (one.rdata.type_code().into(), one.ttl)).collect();
                assert_eq!(ours, theirs, "{name}");
                read += 1;
            }
        }
        assert!(read > 0, "{name}");
    }
}
