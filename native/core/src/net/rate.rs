use super::*;
use crate::descriptor::{Wake, thread_cpu_ns};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
fn ident() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let c = rcgen::CertificateParams::new(vec!["x".to_string()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    (c.pem(), key.serialize_pem())
}
fn run(tls: bool) {
    let (c, k) = ident();
    let fp = fingerprint(&c).unwrap();
    let t = Tls::new(&c, &k, None, None, vec![fp], vec![], None).unwrap();
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = l.local_addr().unwrap().port();
    let t2 = t.clone();
    let h = std::thread::spawn(move || {
        let (s, _) = l.accept().unwrap();
        let mut s: TcpStream = s;
        let mut p = [0; 32];
        std::io::Read::read_exact(&mut s, &mut p).unwrap();
        let link = accept(s.into(), tls.then_some(&t2), Duration::from_secs(10)).unwrap();
        let wake = Wake::new().unwrap();
        let mut buf = vec![0; 1 << 20];
        let mut total = 0u64;
        let c0 = thread_cpu_ns();
        loop {
            match link.try_read(&mut buf) {
                Ok(0) => break,
                Ok(n) => total += n as u64,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    link.wait_readable(&wake, None).unwrap();
                }
                Err(e) => {
                    eprintln!("{e}");
                    break;
                }
            }
        }
        (total, thread_cpu_ns() - c0)
    });
    let mut pre = [0u8; 32];
    pre[..5].copy_from_slice(&[0xf3, b'P', b'W', b'P', 1]);
    let link = connect(
        &Address::Tcp {
            host: "127.0.0.1".into(),
            port,
        },
        &pre,
        tls.then_some(&t),
        Duration::from_secs(10),
    )
    .unwrap();
    let wake = Wake::new().unwrap();
    let buf = vec![7u8; 1 << 20];
    let want = 4u64 << 30;
    let mut sent = 0;
    let t0 = Instant::now();
    let c0 = thread_cpu_ns();
    while sent < want {
        let mut b = &buf[..];
        while !b.is_empty() {
            match link.try_write(b) {
                Ok(n) => b = &b[n..],
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    link.wait_writable(&wake, None).unwrap();
                }
                Err(e) => panic!("{e}"),
            }
        }
        sent += buf.len() as u64;
    }
    while let Err(e) = link.try_flush() {
        assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock);
        link.wait_writable(&wake, None).unwrap();
    }
    let cw = thread_cpu_ns() - c0;
    std::thread::sleep(Duration::from_millis(100));
    link.shutdown();
    let (total, cr) = h.join().unwrap();
    let dt = t0.elapsed().as_secs_f64() - 0.1;
    eprintln!(
        "tls {tls}: {:.2} GB/s wall, write cpu {:.2} GB/s, read cpu {:.2} GB/s ({total} of {sent})",
        sent as f64 / dt / 1e9,
        sent as f64 / cw as f64,
        total as f64 / cr as f64
    );
}
#[test]
fn rate() {
    for _ in 0..2 {
        run(false);
        run(true);
    }
}
#[test]
fn aead() {
    use ring::aead::*;
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[1; 16]).unwrap());
    let mut buf = vec![0u8; 16384 + 17];
    let n = 100_000;
    let t0 = thread_cpu_ns();
    for i in 0..n {
        let mut x = [0; 12];
        x[..4].copy_from_slice(&(i as u32).to_le_bytes());
        let (d, t) = buf.split_at_mut(16385);
        let tag = key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(x), Aad::from([0; 5]), d)
            .unwrap();
        t.copy_from_slice(tag.as_ref());
    }
    let t1 = thread_cpu_ns();
    eprintln!("seal {:.2} GB/s", n as f64 * 16384.0 / (t1 - t0) as f64);
    let src = vec![1u8; 16384];
    let mut dst = vec![0u8; 1 << 20];
    let t0 = thread_cpu_ns();
    for i in 0..n {
        let o = (i % 63) * 16384;
        dst[o..o + 16384].copy_from_slice(&src);
        std::hint::black_box(&mut dst);
    }
    eprintln!(
        "memcpy {:.2} GB/s",
        n as f64 * 16384.0 / (thread_cpu_ns() - t0) as f64
    );
    let t0 = thread_cpu_ns();
    for _ in 0..n {
        let v = src.to_vec();
        std::hint::black_box(&v);
    }
    eprintln!(
        "to_vec {:.2} GB/s",
        n as f64 * 16384.0 / (thread_cpu_ns() - t0) as f64
    );
}
