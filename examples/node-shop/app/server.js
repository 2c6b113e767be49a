// One page that counts its visitors in a file of its volume.
const fs = require('fs')
const http = require('http')

const counter = '/srv/data/visitors'
const greeting = process.env.GREETING || 'welcome'

http.createServer((request, response) => {
  if (request.url === '/healthy') return response.end('ok\n')
  let visitors = 1
  try { visitors += Number(fs.readFileSync(counter, 'utf8')) } catch { /* the first one */ }
  fs.writeFileSync(counter, String(visitors))
  response.end(`${greeting}, visitor ${visitors}\n`)
}).listen(3000, '0.0.0.0')

process.on('SIGTERM', () => process.exit(0))
