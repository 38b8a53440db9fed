use fastmq::codec::SubscriptionOptions; use fastmq::key::*; use fastmq::message::*; use fastmq::router::*; use fastmq::topic::*; use fastmq::time::Instant;
use std::sync::Arc; use std::hint::black_box;
#[global_allocator] static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn cpu()->u64{ std::fs::read_to_string("/proc/thread-self/schedstat").unwrap().split(' ').next().unwrap().parse().unwrap() }
fn deep(mut n: usize)->String{ let mut t=String::from("root"); for _ in 0..9 { t+=&format!("/level-{}",n%5); n/=5;} t }
fn filt(s:u8,n:usize)->String{ match s {0=>format!("devices/device-{n}/state"),1=>deep(n),_=>match n%4{0=>format!("site/{}/+/{}/value",n/4%1000,n/4000),1=>format!("site/{}/line/{}/#",n/4%1000,n/4000),_=>format!("site/{}/line/{}/value",n/4%1000,n/4000*2+n%2)}}}
fn top(s:u8,n:usize)->String{ if s==2 {format!("site/{}/line/{}/value",n/4%1000,n/4000)} else {filt(s,n)}}
fn ses(n:usize)->SessionKey{SessionKey{index:n as u32,generation:0}}
fn sub(r:&mut Router,t:&str,n:usize)->FilterKey{ r.subscribe(&TopicFilter::new(t).unwrap(),ses(n),SubscriptionOptions::new(QoS::AtLeastOnce),None,true).filter }
fn rss()->usize{ std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse::<usize>().unwrap()*4096 }
fn time<T>(name:&str,n:usize,mut f:impl FnMut(usize)->T){ let mut best=f64::MAX; let mut worst=0f64; for _ in 0..5 { let t=cpu(); for i in 0..n { black_box(f(i)); } let v=(cpu()-t) as f64/n as f64; best=best.min(v); worst=worst.max(v);} println!("  {name}: {best:.1}..{worst:.1} ns CPU"); }
fn main(){
 let a: Vec<String>=std::env::args().collect(); let s:u8=a[1].parse().unwrap(); let c:usize=a[2].parse().unwrap();
 if s<3 {
 let texts:Vec<String>=(0..c).map(|n|filt(s,n)).collect(); let topics:Vec<String>=(0..1<<20).map(|i|top(s,(i as usize)*7919%c)).collect();
 let b=rss(); let mut r=Router::new(ShardId(0),2); let t0=cpu(); let mut max=0; 
 for (i,t) in texts.iter().enumerate(){ let w=std::time::Instant::now(); sub(&mut r,t,i); let e=w.elapsed().as_nanos(); if e>max {max=e} }
 println!("shape {s} count {c}: fill {} ns/sub (worst wall {} us), rss {} B/filter, tables {} B, nodes {}",(cpu()-t0)/c as u64,max/1000,(rss()-b)/c,r.table_sizes().0/c,r.node_counts().0);
 let hot=TopicName::new(&topics[0]).unwrap();
 time("hit",20_000_000,|_| r.matches(black_box(hot)));
 time("hit over 10k topics",4_000_000,|i| r.matches(TopicName::from_validated(topics[i%10_000%c].as_bytes())));
 let spoil=TopicFilter::new("+/nobody").unwrap(); sub(&mut r,"+/nobody",0);
 let mut f=|r:&mut Router,i:usize| r.set_interest(ShardId(1),&spoil,if i&1==0 {Interest::PLAIN}else{Interest::NONE});
 time("miss overhead",2_000_000,|i| f(&mut r,i));
 time("miss (incl overhead)",1_000_000,|i|{ f(&mut r,i); r.matches(TopicName::from_validated(topics[i&((1<<20)-1)].as_bytes())) });
 time("resubscribe+unsubscribe existing filter",500_000,|i|{ let k=sub(&mut r,&topics[i&((1<<20)-1)],c); r.unsubscribe(k,ses(c)) });
 let fresh:Vec<String>=(0..500_000).map(|i|filt(s,c+i)).collect();
 time("subscribe+unsubscribe new filter",500_000,|i|{ let k=sub(&mut r,&fresh[i],c+5); r.unsubscribe(k,ses(c+5)) });
 } else {
 let msgs:Vec<Arc<Message>>=(0..c).map(|n|Arc::new(Message::new(MessageRef{topic_name:format!("site/{}/line/{}/value",n%1000,n/1000).as_bytes(),properties:b"",payload:b"20.5",qos:QoS::AtLeastOnce,retain:true,expires_at:None}))).collect();
 let b=rss(); let mut r=Router::new(ShardId(0),2); let mut k=0; let t0=cpu(); for m in &msgs{k+=1;r.retain(m,RetainedVersion{clock:k,shard:ShardId(0)});}
 println!("retained {c}: {} ns each, rss {} B each beside message, tables {}",(cpu()-t0)/c as u64,(rss()-b)/c,r.table_sizes().1/c);
 time("overwrite",1_000_000,|i|{k+=1;r.retain(&msgs[i*7919%c],RetainedVersion{clock:k,shard:ShardId(0)})});
 for t in ["site/7/line/9/value","#","site/+/line/+/value","site/7/#","+/+/+/9/+"] { let fl=TopicFilter::new(t).unwrap(); let mut n=0; r.for_each_retained(&fl,Instant::ZERO,|_|n+=1); let reps=(2_000_000/n).clamp(2,1_000_000); let mut by=0; let t0=cpu(); for _ in 0..reps{ r.for_each_retained(&fl,Instant::ZERO,|m|by+=m.size()); } let ns=(cpu()-t0) as f64/(reps*n) as f64; println!("  replay {t}: {ns:.1} ns/message ({:.1} M/s) of {n} {by}",1000.0/ns); }
 let mut r=Router::new(ShardId(0),2); for n in 0..100_000 { sub(&mut r,"news/sport",n);} let t=TopicName::new("news/sport").unwrap();
 time("fan-out 100k hit",20_000_000,|_|r.matches(black_box(t)));
 time("fan-out 100k rebuild",200,|_|{let k=sub(&mut r,"news/sport",100_000);let m=r.matches(t);r.unsubscribe(k,ses(100_000));m});
 time("fan-out 100k rebuild overlapping",200,|_|{let k=sub(&mut r,"news/+",100_000);let m=r.matches(t);r.unsubscribe(k,ses(100_000));m});
 let mut r=Router::new(ShardId(0),8); for n in 0..4 { sub(&mut r,"$share/g/a/#",n);} for s in 1..8 { r.set_interest(ShardId(s),&TopicFilter::new("$share/g/a/#").unwrap(),Interest{members_online:4,members:4}); }
 let m=r.matches(TopicName::new("a/b").unwrap()); time("pick of 8 shards x 4",5_000_000,|_|r.pick(m.groups[0]));
 time("pick_local",5_000_000,|_|r.pick_local(b"$share/g/a/#"));
 }
}
