//! Keys, certificates and names, with both ends' words for each refusal.

use crate::certificates::{Authority, alone, alone_with, asking, named, pinning};
use crate::ends::{both, neither, says, shake};
use crate::x509::Made;
use pagewire_core::net::Tls;

#[test]
fn two_hosts_that_pin_each_others_keys_need_no_authority() {
    let (a, b) = (alone(), alone());
    let (source, destination) = both(
        "127.0.0.1",
        &pinning(&a, &[b.fingerprint()]),
        &pinning(&b, &[alone().fingerprint(), a.fingerprint()]),
    );
    assert_eq!(source.peer().fingerprint, Some(b.fingerprint()));
    assert_eq!(destination.peer().fingerprint, Some(a.fingerprint()));
    // Nobody vouches for the names in them.
    assert!(source.peer().names.is_empty() && destination.peer().names.is_empty());
    assert!(source.peer().address.starts_with("tls:127.0.0.1:"));
    assert!(destination.peer().address.starts_with("tls:127.0.0.1:"));
}

#[test]
fn a_destination_with_another_key_is_refused() {
    let (a, b, other) = (alone(), alone(), alone());
    let (source, destination) = neither(
        "127.0.0.1",
        &pinning(&a, &[other.fingerprint()]),
        &pinning(&b, &[a.fingerprint()]),
    );
    says(
        &source,
        "PEER_REFUSED",
        &["tls:127.0.0.1:", &b.fingerprint(), "--peer"],
    );
    says(
        &destination,
        "PEER_REFUSED",
        &["refused our certificate", &b.fingerprint()],
    );
}

#[test]
fn a_source_with_another_key_is_refused() {
    let (a, b, other) = (alone(), alone(), alone());
    let (source, destination) = neither(
        "127.0.0.1",
        &pinning(&a, &[b.fingerprint()]),
        &pinning(&b, &[other.fingerprint()]),
    );
    says(
        &source,
        "PEER_REFUSED",
        &["refused our certificate", &a.fingerprint()],
    );
    says(&destination, "PEER_REFUSED", &[&a.fingerprint(), "--peer"]);
}

#[test]
fn certificates_of_an_authority_are_held_against_the_dialled_host() {
    let authority = Authority::new();
    let host = authority.signs(named(&["localhost", "127.0.0.1"]));
    let source = authority.signs(named(&["src.example"]));
    for dialled in ["localhost", "127.0.0.1"] {
        let (a, b) = both(
            dialled,
            &asking(&source, &authority, &[]),
            &asking(&host, &authority, &[]),
        );
        assert!(
            a.peer().names.contains(&dialled.to_owned()),
            "{:?}",
            a.peer()
        );
        assert_eq!(b.peer().names, ["src.example"]);
    }
}

#[test]
fn a_valid_certificate_of_another_host_is_refused() {
    let authority = Authority::new();
    let other = authority.signs(named(&["other.example"]));
    let source = authority.signs(named(&["src.example"]));
    let (a, b) = neither(
        "localhost",
        &asking(&source, &authority, &[]),
        &asking(&other, &authority, &[]),
    );
    says(
        &a,
        "PEER_REFUSED",
        &[
            "shows a certificate for other.example, not for localhost (give --peer other.example if that is right)",
        ],
    );
    says(&b, "PEER_REFUSED", &["refused our certificate"]);
    // With that, it is.
    both(
        "localhost",
        &asking(&source, &authority, &["other.example"]),
        &asking(&other, &authority, &[]),
    );
}

#[test]
fn a_source_whose_name_is_not_in_the_list_is_refused() {
    let authority = Authority::new();
    let host = authority.signs(named(&["localhost"]));
    let source = authority.signs(named(&["laptop.example"]));
    for (allowed, gets_in) in [
        (&["src.example"][..], false),
        (&["*.other"], false),
        (&["aptop.example"], false),
        (&["*laptop.example"], false),
        (&["*.laptop.example"], false),
        (&["*.example"], true),
        (&["LAPTOP.example", "src.example"], true),
        (&["*"], true),
    ] {
        let (a, b) = shake(
            "localhost",
            &asking(&source, &authority, &[]),
            &asking(&host, &authority, allowed),
        );
        assert_eq!(b.is_ok(), gets_in, "{allowed:?}");
        if let Err(error) = b {
            says(&error, "PEER_REFUSED", &["for laptop.example, not for"]);
            says(
                &a.err().unwrap(),
                "PEER_REFUSED",
                &["refused our certificate", "allowed"],
            );
        }
    }
}

#[test]
fn a_name_may_be_a_common_name_only() {
    let authority = Authority::new();
    let host = authority.signs(named(&["localhost"]));
    let client = |common_name| {
        authority.signs(Made {
            common_name,
            ..Made::default()
        })
    };
    let destination = asking(&host, &authority, &["src.example"]);
    let (_, b) = both(
        "localhost",
        &asking(&client("SRC.example"), &authority, &[]),
        &destination,
    );
    assert_eq!(b.peer().names, ["src.example"]);
    let (_, b) = neither(
        "localhost",
        &asking(&client("other"), &authority, &[]),
        &destination,
    );
    says(&b, "PEER_REFUSED", &["for other, not for src.example"]);
    // It does not count beside a certificate's own names.
    let both_kinds = authority.signs(Made {
        names: vec!["other.example".to_owned()],
        common_name: "src.example",
        ..Made::default()
    });
    neither(
        "localhost",
        &asking(&both_kinds, &authority, &[]),
        &destination,
    );
}

#[test]
fn certificates_of_other_authorities_times_and_uses_are_refused() {
    let (authority, other) = (Authority::new(), Authority::called("another one"));
    let host = authority.signs(named(&["localhost"]));
    let destination = asking(&host, &authority, &["*"]);
    let bad = [
        (
            Authority::new().signs(named(&["src"])),
            "was the authority made anew",
            "none of its authorities",
        ),
        (
            other.signs(named(&["src"])),
            "none of our authorities",
            "none of its authorities",
        ),
        (
            authority.signs(Made {
                years: (2000, 2001),
                ..named(&["src"])
            }),
            "expired",
            "expired",
        ),
        (
            authority.signs(Made {
                years: (3000, 3001),
                ..named(&["src"])
            }),
            "not valid yet",
            "not valid yet",
        ),
        (
            authority.signs(Made {
                for_clients: false,
                ..named(&["src"])
            }),
            "extended key usage",
            "extended key usage",
        ),
        (
            alone(),
            "none of our authorities",
            "none of its authorities",
        ),
    ];
    for (source, at_destination, at_source) in bad {
        let (a, b) = neither("localhost", &asking(&source, &authority, &[]), &destination);
        says(&b, "PEER_REFUSED", &[at_destination]);
        says(&a, "PEER_REFUSED", &["refused our certificate", at_source]);
    }
}

#[test]
fn a_certificate_that_was_taken_back_is_refused() {
    let authority = Authority::new();
    let host = authority.signs(named(&["localhost"]));
    let source = |serial| {
        let source = authority.signs(Made {
            serial,
            ..named(&["src"])
        });
        asking(&source, &authority, &[])
    };
    let destination = |list: String| {
        let (authorities, list) = (Some(authority.pem.as_str()), Some(list.as_str()));
        Tls::new(
            &host.certificate,
            &host.key,
            authorities,
            list,
            vec![],
            vec![],
            None,
        )
        .unwrap()
    };
    let current = destination(authority.revokes(13, 4000));
    let (a, b) = neither("localhost", &source(13), &current);
    says(&b, "PEER_REFUSED", &["revoked"]);
    says(&a, "PEER_REFUSED", &["revoked"]);
    both("localhost", &source(14), &current);
    let (_, b) = neither(
        "localhost",
        &source(14),
        &destination(authority.revokes(13, 2010)),
    );
    says(&b, "PEER_REFUSED", &["out of date"]);
}

#[test]
fn names_and_pins_may_stand_side_by_side() {
    let authority = Authority::new();
    let host = authority.signs(named(&["localhost"]));
    let lone = alone();
    let destination = |names: &[&str]| {
        let names = names.iter().map(|name| name.to_string()).collect();
        let authorities = Some(authority.pem.as_str());
        let pins = vec![lone.fingerprint()];
        Tls::new(
            &host.certificate,
            &host.key,
            authorities,
            None,
            pins,
            names,
            None,
        )
        .unwrap()
    };
    let vouched = authority.signs(named(&["src.example"]));
    let vouched = asking(&vouched, &authority, &[]);
    both(
        "localhost",
        &asking(&lone, &authority, &[]),
        &destination(&["src.example"]),
    );
    both("localhost", &vouched, &destination(&["src.example"]));
    // Pins alone are all that is let in, whatever the authority says.
    neither("localhost", &vouched, &destination(&[]));
}

#[test]
fn an_identity_that_cannot_work_is_told_before_anyone_is_connected_to() {
    let (a, b, authority) = (alone(), alone(), Authority::new());
    let new = |certificate: &str, key: &str, authorities: Option<&str>, pins: &[&str]| {
        let pins = pins.iter().map(|pin| pin.to_string()).collect();
        let error = Tls::new(certificate, key, authorities, None, pins, vec![], None)
            .err()
            .unwrap();
        assert_eq!(error.code(), "BAD_IDENTITY");
        error.to_string()
    };
    let pin = b.fingerprint();
    assert!(new(&a.certificate, &b.key, None, &[&pin]).contains("not made for our key"));
    assert!(new("", &b.key, None, &[&pin]).contains("there is none"));
    assert!(new(&a.certificate, "no key", None, &[&pin]).contains("cannot use our key"));
    assert!(new(&a.certificate, &a.key, None, &[]).contains("nobody could be trusted"));
    assert!(new(&a.certificate, &a.key, Some(""), &[]).contains("there is none in the file"));
    assert!(
        new(
            &a.certificate,
            &a.key,
            Some(&authority.pem),
            &["SHA256:short"]
        )
        .contains("SHA256:short")
    );
}

#[test]
fn a_certificate_of_version_1_is_no_use_and_says_so() {
    let old = alone_with(&Made {
        version: 0,
        ..Made::default()
    });
    let pins = vec![alone().fingerprint()];
    let error = Tls::new(&old.certificate, &old.key, None, None, pins, vec![], None);
    says(
        &error.err().unwrap(),
        "BAD_IDENTITY",
        &["our certificate", "version 3"],
    );
}
