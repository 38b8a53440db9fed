// mqtt.js (from npm) against a broker, given as JSON in the first argument. See paho_client.py.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

// The folder that npm installed into is not above this file.
const require = createRequire(process.env.MQTTJS_FOLDER + '/')
const mqtt = require('mqtt')

const PATIENCE_MS = 15000
const COUNT = 20
const SIZE = 300000

const target = JSON.parse(process.argv[2])

class Client {
  static async connect (version, name, { clean = true, will } = {}) {
    const scheme = { tcp: 'mqtt', tls: 'mqtts', ws: 'ws', wss: 'wss' }[target.transport]
    const path = scheme.startsWith('ws') ? '/mqtt' : ''
    const options = {
      clientId: name, protocolVersion: version, clean, reconnectPeriod: 0, connectTimeout: PATIENCE_MS,
      username: target.username, password: target.password
    }
    if (version === 5) options.properties = { sessionExpiryInterval: clean ? 0 : 60 }
    if (target.cafile) options.ca = readFileSync(target.cafile)
    if (will) options.will = { topic: will, payload: 'gone', qos: 1 }
    const client = new Client()
    client.arrived = []
    client.waiting = []
    client.mqtt = mqtt.connect(`${scheme}://${target.host}:${target.port}${path}`, options)
    client.mqtt.on('message', (topic, payload, packet) => {
      const resolve = client.waiting.shift()
      resolve ? resolve(packet) : client.arrived.push(packet)
    })
    client.connack = await new Promise((resolve, reject) => {
      client.mqtt.once('connect', resolve)
      client.mqtt.once('error', reject)
      client.mqtt.once('close', () => reject(new Error('closed before CONNACK')))
    })
    return client
  }

  async subscribe (topic, qos) {
    await this.mqtt.subscribeAsync(topic, { qos })
    return this
  }

  publish (topic, payload, options) {
    return this.mqtt.publishAsync(topic, payload, options)
  }

  next () {
    if (this.arrived.length > 0) return Promise.resolve(this.arrived.shift())
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('nothing arrived')), PATIENCE_MS)
      this.waiting.push(packet => { clearTimeout(timer); resolve(packet) })
    })
  }

  leave () {
    return this.mqtt.endAsync()
  }
}

async function check (version) {
  const base = `mqttjs/${target.transport}/${version}`
  const name = base.replaceAll('/', '-')
  const publisher = await Client.connect(version, `${name}-pub`)
  const subscriber = await (await Client.connect(version, `${name}-sub`)).subscribe(`${base}/+/x`, 2)
  for (const qos of [0, 1, 2]) {
    for (let index = 0; index < COUNT; index++) {
      await publisher.publish(`${base}/${qos}/x`, `${qos} ${index}`, { qos })
    }
  }
  const byQos = [[], [], []]
  for (let index = 0; index < 3 * COUNT; index++) {
    const packet = await subscriber.next()
    byQos[packet.qos].push(packet.payload.toString())
  }
  byQos.forEach((payloads, qos) => {
    assert.deepEqual(payloads, Array.from({ length: COUNT }, (_, index) => `${qos} ${index}`))
  })

  const large = Buffer.from(Array.from({ length: SIZE }, (_, index) => index * 7 % 251))
  await publisher.publish(`${base}/large/x`, large, { qos: 1 })
  assert.ok((await subscriber.next()).payload.equals(large))

  await publisher.publish(`${base}/kept`, 'kept', { qos: 1, retain: true })
  const late = await (await Client.connect(version, `${name}-late`)).subscribe(`${base}/kept`, 1)
  const kept = await late.next()
  assert.deepEqual([kept.payload.toString(), kept.retain], ['kept', true])
  await publisher.publish(`${base}/kept`, '', { qos: 1, retain: true })
  await late.leave()

  let keeper = await Client.connect(version, `${name}-keeper`, { clean: false })
  await keeper.subscribe(`${base}/missed`, 1)
  await keeper.leave()
  for (const payload of ['0', '1', '2']) await publisher.publish(`${base}/missed`, payload, { qos: 1 })
  keeper = await Client.connect(version, `${name}-keeper`, { clean: false })
  assert.equal(keeper.connack.sessionPresent, true)
  for (const payload of ['0', '1', '2']) assert.equal((await keeper.next()).payload.toString(), payload)
  await keeper.leave()
  await (await Client.connect(version, `${name}-keeper`)).leave()

  const mortal = await Client.connect(version, `${name}-mortal`, { will: `${base}/will/x` })
  mortal.mqtt.on('error', () => {})
  mortal.mqtt.stream.destroy()
  const will = await subscriber.next()
  assert.deepEqual([will.topic, will.payload.toString()], [`${base}/will/x`, 'gone'])

  if (version === 5) {
    const properties = {
      contentType: 'text/plain', responseTopic: 'answers', correlationData: Buffer.from([0, 1]), userProperties: { a: ['b', 'c'] }
    }
    await publisher.publish(`${base}/p/x`, 'p', { qos: 1, properties })
    const got = (await subscriber.next()).properties
    assert.equal(got.contentType, 'text/plain')
    assert.equal(got.responseTopic, 'answers')
    assert.ok(got.correlationData.equals(Buffer.from([0, 1])))
    assert.deepEqual({ ...got.userProperties }, { a: ['b', 'c'] })
  }
  await subscriber.leave()
  await publisher.leave()
}

for (const version of [4, 5]) await check(version)
process.exit(0)
